"""The configuration of ALFWorld's scripts."""

import argparse
import os


def load_config():
    """Reads the YAML file that the command line names, with the changes of `-p key.sub=value`.

    Raises:
        ImportError: if PyYAML is not installed.
    """
    import yaml

    parser = argparse.ArgumentParser()
    parser.add_argument("config_file", help="path to config file")
    parser.add_argument(
        "-p",
        "--params",
        nargs="+",
        metavar="my.setting=value",
        default=[],
        help="override params of the config file, e.g. -p 'training.gamma=0.95'",
    )
    args = parser.parse_args()
    assert os.path.exists(args.config_file), "Invalid config file"
    with open(args.config_file) as file:
        config = yaml.safe_load(file)
    for param in args.params:
        name, value = param.split("=")
        *sections, key = name.split(".")
        table = config
        for section in sections:
            table = table[section]
        table[key] = value
    return config
