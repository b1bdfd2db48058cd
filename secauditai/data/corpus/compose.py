"""Composing samples: a weakness, a shape of control flow, names and distractors become a vulnerable/fixed pair.

The two members of a pair share everything but the one thing that decides the label, and one group.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from secauditai.data.corpus.languages import LANGUAGES, Syntax
from secauditai.data.corpus.weaknesses import CUES, FLOWS, WEAKNESSES, Cue, Flow
from secauditai.data.schema import NO_CATEGORY, Sample, code_key

CORPUS_VERSION = 1
DEFAULT_SIZE = 2000
DEFAULT_SEED = 20
CUE_SHARE = 0.3
"""Share of pairs that one statement decides; in the others the same statements stand in another order or relation."""

WORDS = (
    *("account", "address", "amount", "archive", "badge", "basket", "branch", "budget", "channel", "client", "comment"),
    *(
        "company",
        "contact",
        "country",
        "coupon",
        "course",
        "customer",
        "device",
        "document",
        "driver",
        "event",
        "export",
    ),
    *("folder", "gallery", "guest", "image", "invoice", "label", "ledger", "letter", "member", "message", "module"),
    *(
        "notice",
        "offer",
        "order",
        "owner",
        "parcel",
        "partner",
        "payment",
        "period",
        "person",
        "photo",
        "plan",
        "policy",
    ),
    *("product", "profile", "project", "quote", "receipt", "region", "report", "review", "role", "room", "route"),
    *("schedule", "season", "session", "shelf", "shipment", "status", "stock", "student", "survey", "team", "ticket"),
    *(
        "topic",
        "track",
        "trip",
        "unit",
        "vendor",
        "version",
        "visit",
        "voucher",
        "warehouse",
        "window",
        "worker",
        "zone",
    ),
)
VERBS = ("show", "load", "update", "find", "export", "send", "list", "save", "render", "fetch", "check", "sync")


@dataclass
class Writer:
    """Writes statements of one sample; both members of a pair replay the same choices."""

    syntax: Syntax
    random: random.Random
    used: set[str]

    def word(self) -> str:
        """A word not used in this sample yet."""
        free = [word for word in WORDS if word not in self.used]
        chosen = self.random.choice(free)
        self.used.add(chosen)
        return chosen

    def name(self) -> str:
        """A fresh variable name."""
        word = self.word()
        if self.random.random() < 0.4:
            word = f"{word}_{self.random.choice(('key', 'value', 'text', 'ref', 'code'))}"
        return self.syntax.prefix + word

    def assign(self, name: str, expression: str) -> str:
        """A new variable."""
        return self.syntax.assign.format(n=name, e=expression)

    def reassign(self, name: str, expression: str) -> str:
        """A new value for a variable."""
        return self.syntax.reassign.format(n=name, e=expression)

    def when(self, condition: str, *then: str) -> str:
        """A block under a condition."""
        return self.syntax.condition.format(c=condition, then=self.block(then))

    def either(self, condition: str, then: str, other: str) -> str:
        """Two blocks."""
        return self.syntax.branch.format(c=condition, then=self.block((then,)), other=self.block((other,)))

    def leave(self) -> str:
        """Refuse the request."""
        return self.syntax.leave.format(i="")

    def log(self, text: str) -> str:
        """Log a constant text."""
        return self.syntax.log.format(t=text)

    def flag(self) -> str:
        """A condition from the configuration."""
        bare = self.word()
        return self.syntax.flag.format(n=bare, N=bare.capitalize(), bare=bare)

    def negated(self, condition: str) -> str:
        """The opposite condition."""
        return self.syntax.negate.format(c=condition)

    def distractor(self) -> str:
        """A harmless statement."""
        bare = self.word()
        template = self.random.choice(self.syntax.distractors)
        names = {"n": self.syntax.prefix + bare, "N": bare.capitalize(), "bare": bare}
        return template.format(k=self.random.randint(2, 60), **names)

    def block(self, statements: tuple[str, ...] | list[str]) -> str:
        """Statements, indented once."""
        return indent("\n".join(statements), self.syntax.indent)


def indent(text: str, by: str) -> str:
    """Indent every line that is not empty."""
    return "\n".join(by + line if line else line for line in text.split("\n"))


@dataclass(frozen=True)
class Value:
    """What a flow's templates are filled with."""

    flow: Flow
    slots: dict[str, str]

    def source(self, parameter: str) -> str:
        """Where a value comes from."""
        return self.flow.source.format(**{**self.slots, "p": parameter})

    def sanitised(self, name: str) -> str:
        """The expression that makes a value harmless."""
        return self.flow.sanitiser.format(x=name, **self.slots)

    def checked(self, name: str) -> str:
        """The condition that a value is harmless."""
        return self.flow.check.format(x=name, **self.slots)

    def sink(self, name: str) -> str:
        """The statement that a harmful value must not reach."""
        return self.flow.sink.format(x=name, **self.slots)


Shape = Callable[[Writer, Value, bool], list[str]]
"""Statements of a flow, vulnerable or not; both variants make the same random choices."""


def sanitised_copy(w: Writer, v: Value, vulnerable: bool) -> list[str]:
    """A sanitised copy is made; which of the two variables reaches the sink?"""
    raw, clean = w.name(), w.name()
    used = raw if vulnerable else clean
    return [
        w.assign(raw, v.source(w.word())),
        w.assign(clean, v.sanitised(raw)),
        w.log(f"{w.word()} received"),
        v.sink(used),
    ]


def sanitised_in_place(w: Writer, v: Value, vulnerable: bool) -> list[str]:
    """The value is sanitised in place, before or after the sink."""
    raw = w.name()
    sanitise, sink = w.reassign(raw, v.sanitised(raw)), v.sink(raw)
    return [w.assign(raw, v.source(w.word())), *((sink, sanitise) if vulnerable else (sanitise, sink))]


def checked_value(w: Writer, v: Value, vulnerable: bool) -> list[str]:
    """The value is checked; does the check stop anything?"""
    raw, text = w.name(), f"{w.word()} looks odd"
    refuse = (w.log(text),) if vulnerable else (w.log(text), w.leave())
    return [w.assign(raw, v.source(w.word())), w.when(w.negated(v.checked(raw)), *refuse), v.sink(raw)]


def check_in_order(w: Writer, v: Value, vulnerable: bool) -> list[str]:
    """The check comes before or after the sink."""
    raw = w.name()
    check, sink = w.when(w.negated(v.checked(raw)), w.leave()), v.sink(raw)
    return [w.assign(raw, v.source(w.word())), *((sink, check) if vulnerable else (check, sink))]


def check_the_right_one(w: Writer, v: Value, vulnerable: bool) -> list[str]:
    """Two values come in and one is checked; is it the one that is used?"""
    first, second = w.name(), w.name()
    checked = second if vulnerable else first
    values = [w.assign(first, v.source(w.word())), w.assign(second, v.source(w.word()))]
    return [*values, w.when(w.negated(v.checked(checked)), w.leave()), v.sink(first), w.log(f"{w.word()} done")]


def polarity(w: Writer, v: Value, vulnerable: bool) -> list[str]:
    """The sink stands under the check, or under its opposite."""
    raw = w.name()
    condition = v.checked(raw)
    condition = w.negated(condition) if vulnerable else condition
    return [w.assign(raw, v.source(w.word())), w.either(condition, v.sink(raw), w.log(f"{w.word()} refused"))]


def on_every_path(w: Writer, v: Value, vulnerable: bool) -> list[str]:
    """Two branches choose a value; are both of them harmless?"""
    raw, chosen, flag = w.name(), w.name(), w.flag()
    other = raw if vulnerable else v.sanitised(raw)
    return [
        w.assign(raw, v.source(w.word())),
        w.assign(chosen, v.sanitised(raw)),
        w.when(flag, w.reassign(chosen, other)),
        v.sink(chosen),
    ]


SHAPES: tuple[Shape, ...] = (
    sanitised_copy,
    sanitised_in_place,
    checked_value,
    check_in_order,
    check_the_right_one,
    polarity,
    on_every_path,
)


def generate_corpus(n_samples: int = DEFAULT_SIZE, seed: int = DEFAULT_SEED) -> list[Sample]:
    """Generate vulnerable/fixed pairs; the same for the same size and seed, everywhere.

    Args:
        n_samples: samples to make; an odd number is rounded up to whole pairs.
        seed: of all choices.
    """
    source = random.Random(seed)
    samples: list[Sample] = []
    seen: set[bytes] = set()
    while len(samples) < n_samples:
        pair = list(_pair(source, len(samples) // 2))
        keys = {code_key(sample.code) for sample in pair}
        if len(keys) == 2 and not keys & seen:
            seen |= keys
            samples += pair
    return samples


def _pair(source: random.Random, number: int) -> Iterator[Sample]:
    """The two members of a pair, in random order, so that an id says nothing about the label."""
    kinds: tuple[Flow | Cue, ...] = CUES if source.random() < CUE_SHARE else FLOWS
    language = source.choice(LANGUAGES)
    chosen = source.choice([item for item in kinds if item.language == language.name])
    weakness = WEAKNESSES[chosen.weakness]
    severity, shape, replay = source.choice(weakness.severities), source.choice(SHAPES), source.getrandbits(64)
    order = [True, False]
    source.shuffle(order)
    for position, vulnerable in enumerate(order):
        writer = Writer(language, random.Random(replay), set())
        code = _write(writer, chosen, shape, vulnerable=vulnerable)
        metadata = {
            "language": language.name,
            "cwe": weakness.cwe,
            "group": f"pair_{number:05d}",
            "source": "security_dataset",
        }
        if language.framework:
            metadata["framework"] = language.framework
        yield Sample(
            id=f"sd_{number:05d}_{'ab'[position]}",
            code=code,
            label="vulnerability" if vulnerable else "safe",
            severity=severity if vulnerable else "none",
            category=weakness.category if vulnerable else NO_CATEGORY,
            metadata=metadata,
        )


def _write(w: Writer, chosen: Flow | Cue, shape: Shape, *, vulnerable: bool) -> str:
    """One whole sample: wrapper, distractors, and the statements that matter."""
    wrapper = w.random.choice(w.syntax.wrappers)
    function = f"{w.random.choice(VERBS)}_{w.word()}"
    before = [w.distractor() for _ in range(w.random.randint(0, 3))]
    slots = {"t": w.word(), "p": w.word(), "k": str(w.random.choice((8, 16, 32, 64)))}
    if isinstance(chosen, Flow):
        statements = shape(w, Value(chosen, slots), vulnerable)
    else:
        statements = _cue(w, chosen, slots, vulnerable)
    after = [w.distractor() for _ in range(w.random.randint(0, 3))]
    body = "\n".join([*before, *statements, *after])
    one = w.syntax.indent
    parts = {"function": function, "Function": function.title().replace("_", "")}
    return wrapper.format(body=indent(body, one), body2=indent(body, one * 2), **parts)


def _cue(w: Writer, cue: Cue, slots: dict[str, str], vulnerable: bool) -> list[str]:
    """The deciding statement among a few others."""
    raw, name = w.name(), w.name()
    secret = f"{w.random.choice(('S3', 'x9', 'Pw'))}{w.random.getrandbits(40):010x}"
    template = cue.wrong if vulnerable else cue.right
    source = next(flow.source for flow in FLOWS if flow.language == cue.language)
    value = source.format(p=w.word())
    return [w.assign(raw, value), w.log(f"{w.word()} received"), template.format(n=name, x=raw, s=secret, **slots)]
