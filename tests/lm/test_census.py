"""The census table, its source distribution, the vocabulary and the features."""

from __future__ import annotations

import io
import tarfile

import numpy as np
import pytest
import torch

from lm.features.census import census_names, source_probabilities
from lm.features.registry import FEATURES, Feature, feature_values, get_feature
from lm.models.vocabulary import CharVocabulary, VocabularyError
from tools import build_census_csv


def test_the_table_is_the_census():
    table = census_names()
    assert len(table.names) == len(set(table.names)) == 5163
    assert int((table.female_percent > 0).sum()) == 4275
    assert int((table.male_percent > 0).sum()) == 1219
    assert list(table.names) == sorted(table.names)
    # The figures that the census prints first.
    at = table.names.index
    assert table.female_percent[at("mary")] == 2.629
    assert table.male_percent[at("james")] == 3.318
    # Sums of the printed figures, in percent, as lm/features/data/README.md states them.
    assert table.female_percent.sum() == pytest.approx(89.94, abs=1e-9)
    assert table.male_percent.sum() == pytest.approx(90.052, abs=1e-9)
    assert not table.male_percent.flags.writeable


def test_the_source_mixes_the_two_sexes():
    table = census_names()
    source = source_probabilities(0.25)
    assert source.sum() == pytest.approx(1.0, abs=1e-13)
    mary, james = table.names.index("mary"), table.names.index("james")
    expected = 0.25 * 2.629 / 89.94 + 0.75 * table.male_percent[mary] / 90.052
    assert source[mary] == pytest.approx(expected, rel=1e-12)
    assert source_probabilities(0.0)[james] == pytest.approx(3.318 / 90.052, rel=1e-12)
    ends_in_i = np.array([name.endswith("i") for name in table.names])
    assert ends_in_i.sum() == 187
    assert source[ends_in_i].sum() == pytest.approx(0.0058, abs=5e-5)


@pytest.mark.parametrize("share", [-0.1, 1.5, float("nan")])
def test_a_share_outside_the_unit_interval_is_refused(share):
    with pytest.raises(ValueError, match="female_share must lie in"):
        _ = source_probabilities(share)


def _archive(path, female: str, male: str):
    with tarfile.open(path, "w:gz") as archive:
        for name, text in [("dist.female.first", female), ("dist.male.first", male)]:
            content = text.encode()
            info = tarfile.TarInfo(f"names-0.3.0/names/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def test_the_build_script_refuses_another_data_set(tmp_path):
    path = _archive(tmp_path / "other.tar.gz", "MARY 2.629 2.629 1\n", "JAMES 3.318 3.318 1\n")
    with (
        tarfile.open(path) as archive,
        pytest.raises(ValueError, match=r"dist\.female\.first has SHA-256"),
    ):
        _ = build_census_csv.read_table(archive, "dist.female.first")


def test_the_build_script_joins_the_tables():
    rows = build_census_csv.build_rows({"lee": "0.1", "ann": "2"}, {"lee": "0.3", "bob": "4"})
    assert rows == [("ann", "2", "0"), ("bob", "0", "4"), ("lee", "0.1", "0.3")]
    header = build_census_csv.OUTPUT.read_text(encoding="ascii").splitlines()[0]
    assert tuple(header.split(",")) == build_census_csv.COLUMNS


def test_features_by_the_census():
    table = census_names()
    texts = ["mary", "james", "lee", "brandi", "xyzzi", "i", "mar…", ""]
    values = feature_values(["female", "male", "listed", "ends_in_i", "letters"], texts)
    lee = table.names.index("lee")
    female_lee = table.female_percent[lee] / (table.female_percent[lee] + table.male_percent[lee])
    mary = table.names.index("mary")
    female_mary = 2.629 / (2.629 + table.male_percent[mary])
    assert values[2].tolist() == pytest.approx([female_lee, 1 - female_lee, 1, 0, 3], rel=1e-12)
    assert values[0, 0] == pytest.approx(female_mary, rel=1e-12)
    assert values[3].tolist() == [1, 0, 1, 1, 6]
    # Unlisted texts: zero in everything that lives on the list.
    assert values[4:, :4].tolist() == [[0, 0, 0, 0]] * 4
    assert values[4:, 4].tolist() == [5, 1, 3, 0]


def test_features_that_live_on_the_list_vanish_off_it():
    texts = ["zzzi", "", "¤", "maryi", "Mary"]
    for name, feature in FEATURES.items():
        assert feature.description, name
        if feature.lives_on_list:
            assert feature.values(texts).tolist() == [0.0] * 5, name


def test_female_and_male_share_the_listed_names():
    values = feature_values(["female", "male", "listed"], census_names().names)
    assert values[:, 0] + values[:, 1] == pytest.approx(values[:, 2], abs=1e-15)
    assert values[:, 2].sum() == 5163


def test_an_unknown_feature_names_the_nearest():
    with pytest.raises(ValueError, match="unknown feature 'femal'; did you mean 'female'"):
        _ = get_feature("femal")
    with pytest.raises(ValueError, match="name at least one feature"):
        _ = feature_values([], ["mary"])


def test_a_feature_that_is_not_finite_names_the_text(monkeypatch):
    broken = Feature("broken", lambda texts: np.array([0.0, float("nan")]), False)
    monkeypatch.setattr("lm.features.registry.FEATURES", {"broken": broken})
    with pytest.raises(ValueError, match="feature 'broken' is nan for the text 'james'"):
        _ = feature_values(["broken"], ["mary", "james"])


def test_the_vocabulary_has_29_ids_and_round_trips_every_name():
    vocabulary = CharVocabulary()
    names = census_names().names
    tokens, mask = vocabulary.encode(names)
    assert len(vocabulary) == 29
    assert tokens.shape == mask.shape == (5163, 12)
    assert tokens.dtype == torch.int64
    # The end token is inside the mask, and it is the last one there.
    assert torch.equal(mask.sum(-1), torch.tensor([len(name) + 1 for name in names]))
    last = tokens.gather(-1, mask.sum(-1, keepdim=True) - 1)
    assert bool((last == vocabulary.eos_id).all())
    assert vocabulary.decode(tokens, mask) == list(names)


def test_a_cut_sequence_is_not_taken_for_the_name():
    vocabulary = CharVocabulary()
    tokens, mask = vocabulary.encode(["mary", "maryann"])
    cut = vocabulary.decode(tokens[:, :4], mask[:, :4])
    assert cut == ["mary…", "mary…"]
    assert feature_values(["listed"], cut).sum() == 0
    tokens[0, 1] = vocabulary.bos_id
    assert vocabulary.decode(tokens, mask) == ["m¤ry", "maryann"]
    assert vocabulary.decode(tokens, torch.zeros_like(mask)) == ["…", "…"]


def test_the_vocabulary_refuses_what_it_cannot_write():
    with pytest.raises(VocabularyError, match="'Zoë' has the character 'Z'"):
        _ = CharVocabulary().encode(["anna", "Zoë"])
    with pytest.raises(VocabularyError, match="no text to encode"):
        _ = CharVocabulary().encode([])
    with pytest.raises(VocabularyError, match="letters must be different characters"):
        _ = CharVocabulary("aba")
