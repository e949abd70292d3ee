"""What the image installs besides the package: the requirements of settings.ini and of some extras, a line each."""

import sys
from configparser import ConfigParser

file, extras = sys.argv[1:]
config = ConfigParser(delimiters=["="])
config.read(file, encoding="utf-8")
for name in ("requirements", *(f"{extra}_requirements" for extra in extras.split(","))):
    print(*config["DEFAULT"][name].split(), sep="\n")
