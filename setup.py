"""What pyproject.toml cannot say of the build: a few files of data/ come with the wheel, as basinscope/shipped."""

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

SHIPPED = "basinscope.shipped"


class BuildWithoutTraining(build_py):
    """The programs in data/ that made the files stay in the repository."""

    def find_package_modules(self, package: str, package_dir: str) -> list[tuple[str, str, str]]:
        """As setuptools has it, but of that folder none."""
        return [] if package == SHIPPED else super().find_package_modules(package, package_dir)


ROOTS = ("basinscope", "comparisons", "spectra", "volume")
setup(
    packages=[*find_packages(include=[pattern for root in ROOTS for pattern in (root, f"{root}.*")]), SHIPPED],
    package_dir={SHIPPED: "data"},
    cmdclass={"build_py": BuildWithoutTraining},
)
