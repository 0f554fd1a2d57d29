"""Writes what any Python loop plays as a store of episodes that hearth reads.

    from hearth_world.recorder import Recorder
    with Recorder("episodes.jsonl", policy="my-trainer", turn_limit=50) as recorder:
        episode = recorder.start(game_path, seed=7)
        text = env.reset()
        while ...:
            completion, command = my_policy(text)
            episode.turn(text, completion, action=command)
            text, won = env.step(command)
        episode.end(text, won=won)

`hearth verify` and `hearth train` read the store; `hearth report` reads the folder that it is in. Its format is in
docs/formats.md.
"""

import hashlib
import json
import math
import operator
import os
import time
from typing import Any, Optional, Sequence

from ._game_files import TASK_TYPES
from ._world import SPLITS


class Recorder:
    """A store of episodes. Episodes are appended; an existing store is continued.

    Args:
        path: the store, `*.jsonl`.
        policy: a name of the policy, or a hash of its weights.
        turn_limit: maximum number of turns of an episode.
        temperature: at which completions are sampled; 0 is greedy.
        completion_limit: maximum number of tokens of a completion.
        context_limit: maximum number of tokens of the context; 0 if the policy reads text.
        admissible_shown: whether the policy sees the admissible commands.
    """

    def __init__(
        self,
        path: "str | os.PathLike[str]",
        *,
        policy: str,
        turn_limit: int,
        temperature: float = 0.0,
        completion_limit: int = 24,
        context_limit: int = 0,
        admissible_shown: bool = False,
    ):
        if not policy:
            raise ValueError("policy is empty")
        if turn_limit < 1:
            raise ValueError(f"turn_limit is {turn_limit} and must be at least 1")
        if not (temperature >= 0.0 and math.isfinite(temperature)):
            raise ValueError(f"temperature is {temperature} and must be a number of at least 0")
        self.path = os.fspath(path)
        self.policy = policy
        self.protocol = {
            "turn_limit": turn_limit,
            "context_limit": context_limit,
            "completion_limit": completion_limit,
            "temperature": temperature,
            "best_of": 1,
            "admissible_shown": admissible_shown,
            "history": "full",
            "malformed": "wasted_turn",
        }
        self._file = open(self.path, "ab+")
        self._file.seek(0, os.SEEK_END)
        if self._file.tell() > 0:
            self._file.seek(-1, os.SEEK_END)
            if self._file.read(1) != b"\n":
                self._file.close()
                raise ValueError(f"{self.path}: the last line is not complete\nhint: remove it, or let hearth read the store once")
        self._repetitions: "dict[str, int]" = {}
        self._file.seek(0)
        for number, line in enumerate(self._file, 1):
            try:
                record = json.loads(line)
                known = record["game"], int(record["repetition"])
            except (ValueError, KeyError, TypeError) as error:
                self._file.close()
                raise ValueError(f"{self.path}:{number}: not an episode: {error}") from None
            self._repetitions[known[0]] = max(self._repetitions.get(known[0], 0), known[1] + 1)

    def start(
        self,
        game: "str | os.PathLike[str]",
        *,
        seed: int = 0,
        split: Optional[str] = None,
        repetition: Optional[int] = None,
    ) -> "Episode":
        """Begins an episode of a game file. The split and the id come from the path, which ends with
        `SPLIT/TASK/TRIAL/game.tw-pddl`, unless `split` names another.

        Raises:
            ValueError: if the path has no known split and none is given.
        """
        path = os.path.abspath(os.fspath(game))
        parts = path.replace(os.sep, "/").split("/")
        found = next((place for place in range(len(parts) - 1, -1, -1) if parts[place] in SPLITS), None)
        if found is None and split is None:
            raise ValueError(f"{path}: no folder of it is one of {', '.join(SPLITS)}\nhint: pass split=")
        if split is not None and split not in SPLITS:
            raise ValueError(f"unknown split {split!r}; known: {', '.join(SPLITS)}")
        inner = parts[found + 1 :] if found is not None else parts[-3:]
        if inner and inner[-1] == "game.tw-pddl":
            inner = inner[:-1]
        split = split or parts[found]  # type: ignore[index]
        name = "/".join([split, *inner])
        with open(path, "rb") as file:
            digest = hashlib.sha256(file.read()).hexdigest()
        if repetition is None:
            repetition = self._repetitions.get(name, 0)
        self._repetitions[name] = repetition + 1
        task = inner[0].split("-")[0] if inner else ""
        head = {
            "format": 1,
            "game": name,
            "game_hash": digest,
            "split": split,
            "task_type": task if task in TASK_TYPES.values() else None,
            "repetition": repetition,
            "seed": operator.index(seed),
            "policy": self.policy,
            "protocol": self.protocol,
        }
        return Episode(self, head)

    def close(self) -> None:
        """Writes everything to the disk and closes the store."""
        if not self._file.closed:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(self, *error: Any) -> None:
        self.close()

    def _write(self, record: "dict[str, Any]") -> None:
        line = json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n"
        self._file.write(line.encode())
        self._file.flush()


class Episode:
    """One episode: turns, then an end. Nothing is written before `end`."""

    def __init__(self, recorder: Recorder, head: "dict[str, Any]"):
        self._recorder = recorder
        self._head = head
        self._turns: "list[dict[str, Any]]" = []
        self._started = time.monotonic()
        self._is_over = False

    def turn(
        self,
        observation: str,
        completion: str,
        *,
        action: Optional[str],
        observation_tokens: Sequence[int] = (),
        completion_tokens: Sequence[int] = (),
        logprobs: Sequence[float] = (),
        state: Optional[int] = None,
    ) -> None:
        """Adds a turn.

        Args:
            observation: the text that the policy answers.
            completion: the command as the policy wrote it, without the end-of-turn token. hearth reads the command
                from it again, so it must not have thoughts or tags around the command.
            action: the command, or None if the completion has none.
            observation_tokens: ids that the observation adds to the context.
            completion_tokens: ids as sampled, the end-of-turn token included.
            logprobs: ln of the probability of each completion token without temperature and filters, nats.
            state: `Env.state_hash()` before the command, which `hearth verify` compares.

        Raises:
            ValueError: if the episode is over, at the turn limit, or if `logprobs` and `completion_tokens` have
                different lengths.
        """
        self._check()
        for name, value in (("observation", observation), ("completion", completion), ("action", action)):
            if not isinstance(value, str) and not (name == "action" and value is None):
                raise ValueError(f"{name} is {value!r} and must be a text")
        if action is not None and completion.strip() != action:
            raise ValueError(
                f"the completion {completion!r} is not the command {action!r}\n"
                "hint: hearth reads the command from the completion; keep thoughts outside of the store"
            )
        limit = self._recorder.protocol["turn_limit"]
        if len(self._turns) >= limit:  # type: ignore[operator]
            raise ValueError(f"the episode already has {limit} turns, the turn limit of the recorder")
        if len(logprobs) and len(completion_tokens) and len(logprobs) != len(completion_tokens):
            raise ValueError(f"{len(logprobs)} logprobs for {len(completion_tokens)} completion tokens")
        if not all(math.isfinite(number) for number in logprobs):
            raise ValueError("a log-probability is not a finite number")
        if state is not None and not 0 <= state < 2**64:
            raise ValueError(f"state is {state} and must be from 0 to 2**64 - 1, as Env.state_hash() returns")
        turn: "dict[str, Any]" = {
            "observation": observation,
            "observation_tokens": [int(token) for token in observation_tokens],
            "completion": completion,
            "completion_tokens": [int(token) for token in completion_tokens],
            "logprobs": [float(number) for number in logprobs],
            "action": action,
        }
        if state is not None:
            turn["state"] = f"{state:016x}"
        self._turns.append(turn)

    def end(self, last_observation: str, *, won: bool, failure: Optional[str] = None) -> None:
        """Ends the episode and writes it.

        Args:
            last_observation: the text after the last command.
            won: whether the goal was reached.
            failure: the error, if the environment failed; such an episode is no evidence about the policy.
        """
        self._check()
        limit = self._recorder.protocol["turn_limit"]
        if failure is not None:
            outcome = "env_failed"
        elif won:
            outcome = "success"
        else:
            outcome = "turn_limit" if len(self._turns) == limit else "failure"
        record = {
            **self._head,
            "turns": self._turns,
            "last_observation": "" if failure is not None else last_observation,
            "outcome": outcome,
            "reward": 1.0 if outcome == "success" else 0.0,
            "seconds": round(time.monotonic() - self._started, 6),
        }
        if failure is not None:
            record["failure"] = failure
        self._recorder._write(record)
        self._is_over = True

    def _check(self) -> None:
        if self._is_over:
            raise ValueError("the episode is over; Recorder.start begins another")
