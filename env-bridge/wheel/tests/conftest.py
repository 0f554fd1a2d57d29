import pytest

import hearth_world


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """Generated games: 6 train, 2 valid_seen, 2 valid_unseen."""
    folder = tmp_path_factory.mktemp("games")
    return hearth_world.generate(folder, train=6, valid_train=0, valid_seen=2, valid_unseen=2, seed=3)


@pytest.fixture
def game(world):
    return hearth_world.Game(world.games[0].path)


@pytest.fixture
def env(game):
    env = hearth_world.Env(game)
    env.reset()
    return env
