import io

from rich.console import Console

from fashion_dml.evaluation.table import cell, headline, recall_table, vertical_table


def printed(table, width=140):
    out = io.StringIO()
    Console(file=out, width=width).print(table)
    return out.getvalue()


def test_shows_every_model(evaluation):
    text = printed(recall_table(evaluation))
    for model, by in evaluation["models"].items():
        (line,) = [line for line in text.splitlines() if f" {model} " in line and "/" not in line]
        assert all(cell(part["overall"]["R@1"]) in line for part in by.values())
    assert "108 queries" in text
    assert "unified / specialists on separate indexes" in text


def test_many_verticals_stay_readable_where_a_console_is_narrow(evaluation):
    models = evaluation["models"]
    own = models["unified"]["separate"]["verticals"]
    (some, *_) = own
    many = {f"vertical-{i:02}": own[some] for i in range(13)}
    changed = {"models": {m: {**by, "separate": {**by["separate"], "verticals": many}} for m, by in models.items()}}
    changed["models"]["a-recipe-with-a-long-name-160x120"] = changed["models"]["unified"]
    value = f"{100 * own[some]['R@1']['value']:.1f}"
    assert "…" not in printed(recall_table(changed), 80)
    text = printed(vertical_table(changed), 80)
    assert "…" not in text
    assert all(any(name in line and value in line for line in text.splitlines()) for name in many)


def test_verticals_a_model_lacks_are_dashes(evaluation):
    alone = {"separate": {**evaluation["models"]["mixed"]["separate"], "verticals": {}}}
    text = printed(vertical_table({"models": {**evaluation["models"], "mixed": alone, "merged only": {}}}))
    for vertical, own in evaluation["models"]["unified"]["separate"]["verticals"].items():
        (line,) = [line for line in text.splitlines() if f" {vertical} " in line]
        assert f"{100 * own['R@1']['value']:.1f}" in line
        assert " - " in line
    assert "merged only" not in text


def test_markup_in_names_is_text(evaluation):
    changed = {**evaluation, "models": {"[red]x[/red]": evaluation["models"]["unified"]}}
    assert "[red]x[/red]" in printed(recall_table(changed))
    assert "[red]x[/red]" in printed(vertical_table(changed))


def test_headline_needs_both_models(evaluation):
    models = evaluation["models"]
    kept, whole = (models[m]["separate"]["overall"]["R@1"]["value"] for m in ("unified", "specialists"))
    assert headline(evaluation) == f"unified / specialists on separate indexes: {100 * kept / whole:.1f} %"
    assert headline({"models": {"unified": models["unified"]}}) is None
    assert "R@1" in printed(recall_table({"models": {}}))


def test_what_cannot_be_had_is_a_dash():
    assert cell({"value": None, "low": None, "high": None}) == "-"
