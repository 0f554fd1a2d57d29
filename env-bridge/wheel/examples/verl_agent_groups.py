"""verl-agent: groups of environments that play the same game, with a policy that is sometimes the expert's and group-relative advantages.

python verl_agent_groups.py [GAMES]     needs PyYAML
"""

import random
import sys
import tempfile

import hearth_world
from hearth_world.trainers.verl_agent import build_alfworld_envs

CONFIG = """
dataset: {{data_path: {0}/train, eval_id_data_path: {0}/valid_seen, eval_ood_data_path: {0}/valid_unseen,
          num_train_games: 0, num_eval_games: 0}}
env: {{type: AlfredTWEnv, task_types: [1, 2, 3, 4, 5, 6], domain_randomization: false, expert_type: handcoded,
      goal_desc_human_anns_prob: 0}}
general: {{training_method: dqn}}
rl: {{training: {{max_nb_steps_per_episode: 30}}}}
"""

games = sys.argv[1] if len(sys.argv) > 1 else hearth_world.generate(tempfile.mkdtemp(), train=20).path
with tempfile.NamedTemporaryFile("w", suffix=".yaml", delete=False) as file:
    file.write(CONFIG.format(games))
groups, size = 4, 8
envs = build_alfworld_envs(file.name, seed=1, env_num=groups, group_n=size)
texts, _, infos = envs.reset()
draw, returns, done = random.Random(0), [0.0] * (groups * size), [False] * (groups * size)
experts, actions = [hearth_world.Expert() for _ in texts], [None] * len(texts)
while not all(done):
    plans = [expert.act(text, played) for expert, text, played in zip(experts, texts, actions)]
    pools = envs.get_admissible_commands
    actions = [plan if draw.random() < 0.6 else draw.choice(pool) for plan, pool in zip(plans, pools)]
    texts, _, rewards, now, infos = envs.step(actions)
    returns = [total if was else total + reward for total, was, reward in zip(returns, done, rewards)]
    done = now
for group in range(groups):
    own = returns[group * size : (group + 1) * size]
    mean = sum(own) / size
    print(f"group {group}: mean return {mean:.2f}, advantages {[round(value - mean, 2) for value in own]}")
