"""Patterns of file names."""

from hypothesis import given, settings
from hypothesis import strategies as st

from spcnet.data.patterns import filled, placed

PART = st.text("ab.+()[]$^", min_size=1, max_size=4).filter(lambda text: text.strip("."))


@settings(max_examples=60, deadline=None)
@given(stars=st.lists(PART, min_size=3, max_size=3), fixed=st.lists(PART, min_size=3, max_size=3))
def test_a_pattern_filled_with_what_its_stars_stand_for_is_the_path_that_it_fits(
    stars: list[str], fixed: list[str]
) -> None:
    from spcnet.data.patterns import compiled

    pattern = f"{fixed[0]}/**/{fixed[1]}*/x*{fixed[2]}"
    path = filled(pattern, (f"{stars[0]}/", *stars[1:]))
    folder, expression, deep = compiled(pattern)
    assert (folder, deep) == (fixed[0], True)
    found = expression.fullmatch(path)
    assert found is not None
    assert filled(pattern, found.groups()) == path


def test_words_in_braces_are_replaced_and_others_stay() -> None:
    assert placed("a/{split}/{x}*.jpg", {"split": ""}, outer="o/p") == "o/p/a/{x}*.jpg"
