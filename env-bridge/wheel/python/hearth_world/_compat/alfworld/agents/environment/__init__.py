"""The environments by name."""


def get_environment(env_type):
    """Returns the class of an environment.

    Raises:
        NotImplementedError: for environments with images, and for unknown names.
    """
    if env_type == "AlfredTWEnv":
        from alfworld.agents.environment.alfred_tw_env import AlfredTWEnv

        return AlfredTWEnv
    if env_type in ("AlfredThorEnv", "AlfredHybrid"):
        raise NotImplementedError(
            f"{env_type} needs the THOR simulator, which hearth_world does not have; it has AlfredTWEnv\n"
            "hint: run this script without hearth_world.compat, with the alfworld package"
        )
    raise NotImplementedError(f"Environment {env_type} is not implemented.")


def __getattr__(name):
    # Code for alfworld before 0.4 takes the class from this module.
    if name == "AlfredTWEnv":
        return get_environment(name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
