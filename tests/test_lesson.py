"""minigrad.lesson: what the lessons draw with, and what it refuses."""
import numpy as np
import pytest

from minigrad.lesson import figure, matrix, show, strip, table


def test_a_figure_is_svg_in_the_colour_and_font_of_the_page_with_its_alt():
    fig = figure()
    fig.add_subplot().set_title("loss")
    drawn = show(fig, 'a "loss" that falls < 1')
    html = drawn._repr_html_()
    assert 'aria-label="a &quot;loss&quot; that falls &lt; 1"' in html and "<svg " in html and "currentColor" in html
    assert "#000000" not in html and "font-family: " not in html and repr(drawn) == 'a "loss" that falls < 1'


@pytest.mark.parametrize("alt", ["", "loss curve", None, 3])
def test_a_figure_without_a_description_is_refused(alt):
    with pytest.raises(ValueError, match="alt must say in words what the figure shows"):
        show(figure(), alt)


def test_a_table_has_three_decimals_and_escapes_its_texts():
    made = table(["op", "error"], [["a<b", 1234.56789], ["c", np.float64(0.5)]])
    assert "a&lt;b" in made._repr_html_() and "1,234.568" in made._repr_html_()
    assert repr(made) == "op  error\na<b  1,234.568\nc  0.500"


@pytest.mark.parametrize("row, values", [([3], "1 value"), ([3, 4, 5], "3 values")])
def test_a_table_whose_rows_have_not_the_length_of_the_header_is_refused(row, values):
    with pytest.raises(ValueError, match=rf"rows\[1\] has {values}, the header has 2: "):
        table(["a", "b"], [[1, 2], row])


def test_a_strip_shows_each_character_with_its_loss():
    html = strip("a<\n", {"mine": np.array([0.0, 1.5, 9.0])})._repr_html_()
    assert html.count("<span") == 3 and ">&lt;<" in html and "0.50)" in html and 'title="9.00 nats">⏎<' in html


@pytest.mark.parametrize("losses, shape", [(np.ones(2), r"\(2,\)"), (np.ones(4), r"\(4,\)"), (1.0, r"\(\)"),
                                           (np.ones((3, 2)), r"\(3, 2\)")])
def test_a_strip_with_another_number_of_losses_than_characters_is_refused(losses, shape):
    with pytest.raises(ValueError, match=f"the losses of 'mine' have shape {shape}, but the text has 3 characters"):
        strip("abc", {"mine": losses})


def test_a_matrix_takes_one_label_for_each_row_and_column():
    ax = figure().add_subplot()
    matrix(ax, [[1.0, -0.5]], "weights", ["q"], ["a", "b"])
    assert [text.get_text() for text in ax.texts] == ["+1.00", "-0.50"]
    for a, shape in ((np.ones(2), r"\(2,\)"), (np.ones((2, 3)), r"\(2, 3\)")):
        with pytest.raises(ValueError, match=f"a has shape {shape}, and there are labels for 1 row and 2 columns"):
            matrix(ax, a, "weights", ["q"], ["a", "b"])
