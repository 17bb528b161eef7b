"""What one does with this project, a session each: `nox -s demo` makes a picture, `nox -s tests` passes every test."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import nox

nox.options.sessions = ["tests"]
nox.options.reuse_existing_virtualenvs = True
nox.options.default_venv_backend = "venv"

ROOT = Path(__file__).parent
PACKAGES = ("lumina-core", "lumina-image", "lumina-audio", "lumina-3d", "lumina-recog")
WITH_EXTRAS = (
    "lumina-core[transformers,quantize,adaptive,lora,plot]",
    "lumina-image[diffusers,evaluate,shards]",
    "lumina-audio[evaluate,plot,published]",
    "lumina-3d[plot,render]",
    "lumina-recog[plot,timm]",
)
TEST_TOOLS = (
    "pytest>=8",
    "pytest-xdist>=3.5",
    "hypothesis>=6.100",
    "import-linter>=2",
    "tensorboard>=2.14",
    "copier>=9",
)
SITE_TOOLS = ("mkdocs>=1.6,<2", "mkdocs-material>=9.6,<10", "mkdocstrings-python>=2,<3", "ruff>=0.6")
ONE_THREAD = {"OMP_NUM_THREADS": "1"}
"""Of workers with two threads each on two cores, one slows the other down."""
SHARED = ROOT / ".nox" / f"shared-{sys.version_info[0]}.{sys.version_info[1]}"
"""torch lives here once, with the torchvision that fits it (timm needs one); every session's environment looks into it.
Its wheels are gigabytes on some machines."""


def share_torch(session: nox.Session) -> None:
    """Let this session's environment find torch in the shared one, made on first use."""
    scripts = SHARED / ("Scripts" if os.name == "nt" else "bin")
    python = scripts / ("python.exe" if os.name == "nt" else "python")
    if not (SHARED / "whole").is_file():
        session.run(sys.executable, "-m", "venv", "--clear", str(SHARED), external=True)
        pip = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
        session.run(*pip, "-c", "constraints.txt", "torch", "torchvision", "numpy", external=True)
        (SHARED / "whole").touch()
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    shared = str(session.run(str(python), "-c", where, external=True, silent=True)).strip()
    own = str(session.run("python", "-c", where, silent=True)).strip()
    # a .pth file puts the shared packages behind the session's own, so that what a session pins wins
    Path(own, "shared-torch.pth").write_text(shared + "\n", encoding="utf-8")


def install(session: nox.Session, *what: str, packages: tuple[str, ...] = PACKAGES, editable: bool = True) -> None:
    """Install packages of this project and other things beside the shared torch."""
    share_torch(session)
    flag = ["-e"] if editable else []
    ours = [word for package in packages for word in (*flag, f"./packages/{package}")]
    session.install("-q", "-c", "constraints.txt", *ours, *what)


@nox.session
def demo(session: nox.Session) -> None:
    """Make a picture from a sentence with the built-in model; other words: nox -s demo -- "a yellow star"."""
    install(session, editable=False)
    words = session.posargs or ["red heart"]
    session.run("lumina", "image", words[0], "--out", "demo.png", "--seed", "1", "--json", "--overwrite", *words[1:])
    session.log("the picture is in demo.png")


@nox.session
def tests(session: nox.Session) -> None:
    """Every test; arguments go to pytest: nox -s tests -- tests/core -k solver."""
    install(session, *TEST_TOOLS, packages=WITH_EXTRAS)
    session.run("pytest", "-n", "auto", *session.posargs, env=ONE_THREAD)


@nox.session
def fuzz(session: nox.Session) -> None:
    """800 bad inputs of a seed, 60 kills of trainings, ten races for a folder, compiled training of all recipes."""
    install(session, *TEST_TOOLS, packages=WITH_EXTRAS)
    session.run(
        "pytest",
        "-n",
        "auto",
        "tests/fuzz",
        "tests/test_compiled_training.py",
        *session.posargs,
        env={"LUMINA_FUZZ": "800", **ONE_THREAD},
    )
    session.run("python", "tests/kills.py", "--kills", "60", "--races", "10", env=ONE_THREAD)


@nox.session
@nox.parametrize("package", PACKAGES)
def alone(session: nox.Session, package: str) -> None:
    """Each package with the core only: what it needs beyond that would be missing here."""
    install(session, "pytest>=8", "hypothesis>=6.100", packages=tuple(dict.fromkeys(("lumina-core", package))))
    tests = {"lumina-3d": "three_d"}.get(package, package.removeprefix("lumina-"))
    session.run("pytest", f"tests/{tests}", *session.posargs, env=ONE_THREAD)


@nox.session
def downstream(session: nox.Session) -> None:
    """Plugins as a stranger has them: the examples and one from the template, as wheels, without our sources."""
    share_torch(session)
    session.install("-q", "copier>=9", "pytest>=8")
    place = Path(session.create_tmp()).resolve()
    shutil.rmtree(place, ignore_errors=True)
    data = {"name": "fresh", "component_type": "solver", "author": "A. Stranger"}
    answers = [word for key, answer in data.items() for word in ("--data", f"{key}={answer}")]
    session.run("copier", "copy", "--quiet", *answers, "templates/plugin", str(place / "lumina-fresh"))
    for example in ("lumina-ralston", "lumina-motion"):
        shutil.copytree(Path("examples", example), place / example)
    plugins = [place / name for name in ("lumina-fresh", "lumina-ralston", "lumina-motion")]
    made = ["./packages/lumina-core", *map(str, plugins)]
    session.run("pip", "wheel", "-q", "--no-deps", "-w", str(place / "wheels"), *made)
    session.install("-q", "-c", "constraints.txt", *map(str, sorted((place / "wheels").glob("*.whl"))))
    with session.chdir(place):
        session.run("pytest", "-q", "--import-mode=importlib", *(str(plugin / "tests") for plugin in plugins))
        session.run("lumina", "plugins", env={"LUMINA_STRICT": "1"})


@nox.session
def lint(session: nox.Session) -> None:
    """Style, complexity of functions, and imports that only go down the layers."""
    install(session, "ruff>=0.6", "import-linter>=2")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("lint-imports")


@nox.session
def types(session: nox.Session) -> None:
    """Strict types, none of our modules left out."""
    install(session, "mypy>=1.11", "types-PyYAML")
    session.run("mypy")


@nox.session
def distributed(session: nox.Session) -> None:
    """Exits and kills of trainings of two processes, repeated: some minutes; --exits N --kills N."""
    install(session, packages=("lumina-core",))
    session.run("python", "tests/core/repeat_distributed.py", *session.posargs, env=ONE_THREAD)


@nox.session
def lowest(session: nox.Session) -> None:
    """The oldest versions that the packages claim to work with, of everything light."""
    install(session, "-r", "lowest.txt", "pytest>=8", "hypothesis>=6.100")
    session.run("pytest", "tests/core", "tests/image", "tests/audio", "tests/three_d", *session.posargs, env=ONE_THREAD)


@nox.session
def docs(session: nox.Session) -> None:
    """The pages as a site in site/, any warning an error; while one writes: nox -s docs -- serve."""
    session.install("-q", *SITE_TOOLS)  # the reference is read from the sources: nothing of ours is imported
    session.run("mkdocs", *(session.posargs or ("build", "--strict")), env={"NO_MKDOCS_2_WARNING": "1"})
