"""What SLURM's own records say of jobs."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

__all__ = ["JobRecord", "fields_of", "most_at_once", "record_of"]

ENDED = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "DEADLINE"}


@dataclass(frozen=True)
class JobRecord:
    """One run of one job, from SLURM's own records. A job that was queued again has several, all but one not its last:
    their state is PENDING or why it was queued again.

    Attributes:
        start, end: None when the job never ran.
        gpus: GPU slots that it asked for.
        comment: what Snakemake's plugin notes: rule and wildcards.
        directory: where it was submitted.
    """

    id: int
    name: str
    state: str
    partition: str
    start: datetime | None
    end: datetime | None
    node: str
    tres: dict[str, str]
    time_limit: str
    gpus: int
    comment: str
    directory: str

    @property
    def rule(self) -> str:
        """The workflow's rule; empty for a job that Snakemake has not submitted."""
        found = re.fullmatch(r"rule_(\w+?)(_wildcards_.*)?", self.comment)
        return found[1] if found else ""

    @property
    def ended(self) -> bool:
        return self.state in ENDED

    def overlaps(self, other: JobRecord) -> bool:
        """Whether both ran at some moment. Times are whole seconds: an end and a start in the same one do not count."""
        if None in (self.start, self.end, other.start, other.end):
            return False
        return self.start < other.end and other.start < self.end


def most_at_once(records: Iterable[JobRecord], gpu_only: bool = True) -> int:
    """The largest number of jobs that ran at the same time."""
    events = []
    for record in records:
        if record.start is not None and record.end is not None and (record.gpus or not gpu_only):
            events += [(record.start, 1), (record.end, -1)]
    running = most = 0
    for _, change in sorted(events):  # an end sorts before a start of the same second
        running += change
        most = max(most, running)
    return most


def fields_of(line: str) -> dict[str, str]:
    return dict(re.findall(r"(?:^|(?<= ))([\w/:]+)=(\S*)", line))


def _time(text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(text)
    except ValueError:  # None, Unknown
        return None


def record_of(fields: dict[str, str]) -> JobRecord:
    """From the fields of jobcomp/filetxt or of `scontrol show job`; some names differ."""
    wanted = ",".join(value for name, value in fields.items() if name.startswith("TresPer"))
    tres = fields.get("Tres") or fields.get("TRES") or ""
    start, end = _time(fields["StartTime"]), _time(fields["EndTime"])
    return JobRecord(
        id=int(fields["JobId"]),
        name=fields.get("Name") or fields["JobName"],
        state=fields["JobState"],
        partition=fields["Partition"],
        start=start,
        end=end,
        node=fields["NodeList"],
        tres=dict(part.split("=", 1) for part in tres.split(",") if "=" in part),
        time_limit=fields["TimeLimit"],
        gpus=sum(int(count or 1) for count in re.findall(r"gpu(?::[a-z_]\w*)?(?::(\d+))?", wanted)),
        comment=fields.get("Comment", ""),
        directory=fields["WorkDir"],
    )
