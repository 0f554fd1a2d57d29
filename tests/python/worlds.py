"""Worlds for the tests of the bridge: one that works, and one whose games break their process in every way."""

import ctypes
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time


class Corridor:
    """Won by going forward as often as the game file says; `lose` loses it."""

    def reset(self, game):
        with open(game, encoding="utf-8") as file:
            self.left = json.load(file)["length"]
        print("this goes to standard error, not into the protocol")
        return f"You are in a corridor, {self.left} doors from the end.", "playing", ["forward", "lose"]

    def step(self, command):
        if command == "lose":
            return "You are lost.", "lost", []
        if command == "forward":
            self.left -= 1
        status = "won" if self.left == 0 else "playing"
        return f"{self.left} doors are left. \u00e9\U0001f525", status, ["forward", "lose"]

    def close(self):
        pass


class Faulty(Corridor):
    """The corridor, but the game file may name a fault: at `at` doors from the end (or at the reset) it strikes."""

    def reset(self, game):
        self.kept = tempfile.NamedTemporaryFile(delete=False)  # nobody but the pool removes it
        with open(game, encoding="utf-8") as file:
            plan = json.load(file)
        self.fault, self.at = plan.get("fault"), plan.get("at")
        if self.at == "reset":
            self.strike()
        return super().reset(game)

    def step(self, command):
        if self.fault and self.left == self.at:
            self.strike()
        return super().step(command)

    def strike(self):
        getattr(self, self.fault)()

    def raises(self):
        raise RuntimeError("the corridor caves in")

    def exits(self):
        sys.exit("as the planner's translator does")

    def exits_hard(self):
        os._exit(3)

    def kills(self):
        os.kill(os.getpid(), signal.SIGKILL)

    def crashes(self):
        ctypes.string_at(0)

    def hangs(self):
        time.sleep(3600)

    def hangs_busy(self):
        re.match(r"(a+)+$", "a" * 64 + "b")  # in C, without giving the interpreter away

    def stops(self):
        os.kill(os.getpid(), signal.SIGSTOP)

    def leaves_children(self):
        subprocess.Popen(["sleep", "3600"])
        os._exit(0)

    def corrupts(self):
        for descriptor in range(3, 32):
            try:
                os.write(descriptor, b"You are in a maze of twisty little passages, all alike.")
            except OSError:
                pass

    def answers_twice(self):
        frame = json.dumps({"number": 2, "message": {"memory": 1, "said": "Done"}}).encode()
        for descriptor in range(3, 32):
            try:
                os.write(descriptor, len(frame).to_bytes(4, "little") + frame)
            except OSError:
                pass

    def closes_pipes(self):
        os.closerange(3, 32)

    def hoards(self):
        self.hoard = [bytearray(b"x" * (1 << 20)) for _ in range(4096)]
        time.sleep(3600)


class Misnamed:
    """Lacks a method."""

    def reset(self, game):
        return "", "playing"

    def step(self, command):
        return "", "playing"


class Nonsense(Corridor):
    """Answers a command with something that is no answer."""

    def step(self, command):
        return {"observation": command}
