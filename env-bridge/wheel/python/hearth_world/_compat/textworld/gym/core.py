from textworld.core import EnvInfos


class Agent:
    """Something that plays games of `textworld.gym`."""

    @property
    def infos_to_request(self):
        return EnvInfos()

    def act(self, obs, score, done, infos):
        raise NotImplementedError()
