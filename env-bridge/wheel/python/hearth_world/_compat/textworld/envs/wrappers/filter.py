from textworld.core import Wrapper


class Filter(Wrapper):
    """Reports the text, and the requested information as a dict."""

    def _get_requested_infos(self, state):
        infos = {name: state.get(name) for name in self.request_infos.basics}
        for name in self.request_infos.extras:
            infos[f"extra.{name}"] = state.get(f"extra.{name}")
        return infos

    def step(self, command):
        state, score, done = super().step(command)
        return state.feedback, score, done, self._get_requested_infos(state)

    def reset(self):
        state = super().reset()
        return state.feedback, self._get_requested_infos(state)

    def copy(self):
        env = Filter()
        env._wrapped_env = self._wrapped_env.copy()
        env.request_infos = self.request_infos
        return env
