"""Before a release is built: compare its tag with the versions told, and make the README's links absolute.

    python .github/release.py v0.2.0 https://host/owner/hirez-mosaic

In the repository links are relative, so that they work in every clone and fork. The package index shows the README
elsewhere: there they lead to the tag's files, and pictures to their raw bytes.
"""

import re
import sys
import tomllib
from pathlib import Path


def check(tag: str, project: str, changes: str, citation: str) -> None:
    """Exit with a sentence where the tag is not the version of pyproject.toml, CHANGELOG.md and CITATION.cff."""
    version = tomllib.loads(project)["project"]["version"]
    if tag != f"v{version}":
        sys.exit(f"The tag is {tag} and pyproject.toml has {version}; tag v{version}, or change the version.")
    if not re.search(rf"^## {re.escape(version)} \(\d{{4}}-\d\d-\d\d\)$", changes, re.MULTILINE):
        sys.exit(f"CHANGELOG.md has no section '## {version} (YYYY-MM-DD)'; date it.")
    if f"\nversion: {version}\n" not in citation:
        sys.exit(f"CITATION.cff has another version than {version}; change it.")


def absolute(readme: str, tag: str, repository: str) -> str:
    """The README with absolute links."""
    readme = re.sub(r"(!\[[^]]*\]\()(?!https?:)", rf"\g<1>{repository}/raw/{tag}/", readme)
    return re.sub(r"((?<!!)\[[^]]*\]\()(?!https?:|#)", rf"\g<1>{repository}/blob/{tag}/", readme)


def main(tag: str, repository: str) -> None:
    """Check the versions and change README.md."""
    texts = [Path(name).read_text("utf-8") for name in ("pyproject.toml", "CHANGELOG.md", "CITATION.cff")]
    check(tag, *texts)
    readme = Path("README.md")
    readme.write_text(absolute(readme.read_text("utf-8"), tag, repository), "utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
