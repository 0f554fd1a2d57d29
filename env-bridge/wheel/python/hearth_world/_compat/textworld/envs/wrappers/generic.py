import textworld
import textworld.envs
from textworld.core import Wrapper


class GenericEnvironment(Wrapper):
    """Becomes the environment for whatever kind of game it loads."""

    def __init__(self, request_infos=None):
        super().__init__()
        self.request_infos = request_infos
        self._last_backend = None

    def load(self, gamefile):
        backend = textworld.envs._guess_backend(gamefile)
        if self._last_backend != backend:
            self._wrap(textworld.start(gamefile, self.request_infos))
            self._last_backend = backend
        else:
            self._wrapped_env.load(gamefile)
