"""nbdev's layout: everything about the package stands in settings.ini; this file only hands it to setuptools."""

from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
config = ConfigParser(delimiters=["="])
config.read(HERE / "settings.ini", encoding="utf-8")
settings = config["DEFAULT"]

setup(
    name=settings["lib_name"],
    version=settings["version"],
    description=settings["description"],
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author=settings["author"],
    author_email=settings["author_email"],
    url=settings["git_url"],
    license="Apache-2.0",
    keywords=settings["keywords"],
    classifiers=["Programming Language :: Python :: 3", "Operating System :: POSIX"],
    # The papermill notebooks travel in the wheel as ride_duration.runs, and the runbook as ride_duration.docs.
    packages=[*find_packages(include=["ride_duration", "ride_duration.*"]), "ride_duration.runs", "ride_duration.docs"],
    package_dir={"ride_duration.runs": "nbs/runs", "ride_duration.docs": "docs"},
    package_data={
        "ride_duration.runs": ["*.ipynb"],
        "ride_duration.docs": ["runbook.md"],
        "ride_duration.serve": ["page/*"],
    },
    python_requires=f">={settings['min_python']}",
    install_requires=settings["requirements"].split(),
    extras_require={
        name.removesuffix("_requirements"): settings[name].split()
        for name in settings
        if name.endswith("_requirements")
    },
    entry_points={
        "console_scripts": settings["console_scripts"].split(),
        "nbdev": [f"{settings['lib_path']}={settings['lib_path']}._modidx:d"],
    },
    zip_safe=False,
)
