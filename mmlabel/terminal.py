"""What a run says on standard output when it has finished."""


def print_table(results: dict) -> None:
    """The scores of one run, and those of each label, on standard output."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(soft_wrap=True)
    table = Table(title="Scores", box=box.SIMPLE_HEAD)
    for heading in ("split", "F1 micro", "F1 per sample", "F1 macro", "mAP", "loss", "rows"):
        table.add_column(heading, justify="left" if heading == "split" else "right")
    for split in ("val", "test"):
        scores = {k.split("/")[1]: v for k, v in results["scores"].items() if k.startswith(split)}
        if scores:
            names = ("f1_micro", "f1_samples", "f1_macro", "map", "loss")
            cells = [f"{scores[name]:.3f}" for name in names]
            table.add_row(split, *cells, str(results["rows"][split]))
    console.print(table)

    if results["labels"]:
        table = Table(title="Test split by label", box=box.SIMPLE_HEAD)
        for heading in ("label", "name", "support", "precision", "recall", "F1"):
            table.add_column(heading, justify="left" if heading == "name" else "right")
        for number, row in results["labels"].items():
            cells = [f"{row[name]:.3f}" for name in ("precision", "recall", "f1")]
            table.add_row(number, row["name"], str(row["support"]), *cells)
        console.print(table)

    size, limit = results["megabytes"], 100
    size_note = "within" if size < limit else "over"
    seconds = results["seconds"]
    facts = [
        f"{results['parameters']:,} parameters, {size:.1f} MB ({size_note} the report's limit of"
        f" {limit} MB)",
        f"{seconds['total']:.1f} s",
    ]
    if results["epochs"]:
        facts.append(
            f"of which training {seconds['train']:.1f} s for {results['epochs']} epochs, the best"
            f" of them epoch {results['best_epoch']}"
        )
    if "detector" in seconds:
        rate = sum(results["rows"].values()) / max(seconds["detector"], 1e-9)
        facts.append(f"detection {seconds['detector']:.1f} s ({rate:.1f} pictures a second)")
    console.print(", ".join(facts))
    for note in results["notes"]:
        console.print(f"Note: {note}")
