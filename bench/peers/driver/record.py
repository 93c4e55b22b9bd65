"""Leaves a run where it can be read later: the printed tables, and every number of every round."""
import json
from dataclasses import asdict

TABLES, NUMBERS = "peers.txt", "peers.json"


class Record:
    """Written anew after each piece of work, so that a run that is stopped leaves what it had."""

    def __init__(self, directory, machine):
        self.directory = directory
        self.machine = machine
        self.tables = []
        self.works = []
        directory.mkdir(parents=True, exist_ok=True)

    def add(self, work, outcomes, table):
        self.tables.append(table)
        units = {figure.name: figure.unit for figure in work.figures}
        contenders = {contender.name: contender.against for contender in work.contenders}
        self.works.append({
            "name": work.name, "title": work.title, "units": units,
            "contenders": [
                {"name": name, "against": against, **asdict(outcomes[name])} for name, against in contenders.items()
            ],
        })
        self.write()

    def write(self):
        numbers = {"machine": self.machine, "works": self.works}
        (self.directory / NUMBERS).write_text(json.dumps(numbers, indent=1, ensure_ascii=False) + "\n")
        text = "\n\n".join([machine_text(self.machine), *self.tables])
        (self.directory / TABLES).write_text(text + "\n")


def machine_text(machine):
    """All of it that fits on a line; the lists of packages are in the JSON."""
    width = max(map(len, machine))
    return "\n".join(f"{name:{width}}  {value}" for name, value in machine.items() if not isinstance(value, list))
