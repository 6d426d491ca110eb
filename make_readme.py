"""Put the tables of results/ into README.md, between the comments that name their files: python make_readme.py"""

import argparse
import re
from pathlib import Path

from tables import write

HOME = Path(__file__).resolve().parent
PLACE = re.compile(r"<!-- (results/\S+) -->\n.*?<!-- end -->", re.DOTALL)


def main():
    argparse.ArgumentParser(description=__doc__).parse_args()
    readme = HOME / "README.md"
    text = PLACE.sub(
        lambda place: f"<!-- {place[1]} -->\n{Path(HOME, place[1]).read_text(encoding='utf-8')}<!-- end -->",
        readme.read_text(encoding="utf-8"),
    )
    write(readme, text)


if __name__ == "__main__":
    main()
