import io

from rich.console import Console

from fashion_dml.evaluation.table import cell, headline, recall_table


def printed(table):
    out = io.StringIO()
    Console(file=out, width=140).print(table)
    return out.getvalue()


def test_shows_every_model(evaluation):
    text = printed(recall_table(evaluation))
    for model, by in evaluation["models"].items():
        (line,) = [line for line in text.splitlines() if f" {model} " in line and "/" not in line]
        assert all(cell(part["overall"]["R@1"]) in line for part in by.values())
    assert "108 queries" in text
    assert "unified / specialists on separate indexes" in text


def test_markup_in_names_is_text(evaluation):
    changed = {**evaluation, "models": {"[red]x[/red]": evaluation["models"]["unified"]}}
    assert "[red]x[/red]" in printed(recall_table(changed))


def test_headline_needs_both_models(evaluation):
    models = evaluation["models"]
    kept, whole = (models[m]["separate"]["overall"]["R@1"]["value"] for m in ("unified", "specialists"))
    assert headline(evaluation) == f"unified / specialists on separate indexes: {100 * kept / whole:.1f} %"
    assert headline({"models": {"unified": models["unified"]}}) is None
    assert "R@1" in printed(recall_table({"models": {}}))


def test_what_cannot_be_had_is_a_dash():
    assert cell({"value": None, "low": None, "high": None}) == "-"
