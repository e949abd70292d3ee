"""What the image installs besides the package: the requirements of settings.ini and of some extras, a line each."""

import sys
from configparser import ConfigParser

file, extras = sys.argv[1:]
config = ConfigParser(delimiters=["="])
config.read_string(open(file, encoding="utf-8").read())
settings = config["DEFAULT"]
print(*settings["requirements"].split(), *(one for extra in extras.split(",") for one in settings[f"{extra}_requirements"].split()), sep="\n")
