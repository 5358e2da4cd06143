"""The registry of pruning methods: what each one needs and its options, without an import of torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from pydantic import Field

from ..names import choice, function_of
from ..options import Count, Options, Positive, check, options, options_of

if TYPE_CHECKING:
    from .subject import Subject

__all__ = [
    "CONTROLS",
    "METHODS",
    "Method",
    "declare",
    "method_name",
    "method_of",
    "method_token",
    "names",
    "without_control",
]

Function = TypeVar("Function", bound=Callable[..., Any])

WHEN = ("trained", "initialisation", "any", "iterative")
NEEDS = (None, "input_shape", "labels")
CONTROLS = ("layerwise_shuffle", "reinitialise")


@dataclass(frozen=True)
class Method:
    """A pruning method.

    Attributes:
        name: as in tables and configurations.
        path: ``module:function``. ``function(subject, **options)`` gives scores (D,), low ones are removed first; when
            ``depends_on_sparsity``, ``function(subject, sparsity, **options)`` gives a boolean keep mask (D,); for an
            iterative method ``function(target, epochs, **options)`` gives the levels of its chain.
        options: names, types and defaults of the method's own options.
        when: ``"trained"`` or ``"initialisation"``: the network that the method's paper applies it to; ``"any"``: it
            does not look at the weights; ``"iterative"``: it prunes and trains in turn.
        needs: None, ``"input_shape"`` or ``"labels"``: what it needs beyond the weights.
        depends_on_sparsity: whether masks of two sparsities need not be nested, so that there is no one ranking.

    Raises:
        ValueError: for an unknown ``when`` or ``needs``.
    """

    name: str
    path: str
    options: type[Options]
    when: str = "trained"
    needs: str | None = None
    depends_on_sparsity: bool = False

    def __post_init__(self):
        if self.when not in WHEN or self.needs not in NEEDS:
            raise ValueError(
                f"pruning method {self.name}: when must be one of {WHEN} and needs one of {NEEDS}, got {self.when!r}"
                f" and {self.needs!r}"
            )

    @property
    def function(self) -> Callable[..., Any]:
        """The function itself; its module is imported now."""
        return function_of("pruning method", self.path)

    def check_options(self, given: Mapping[str, Any]) -> None:
        """Check names and values of options.

        Args:
            given: the options by name.

        Raises:
            ValueError: naming the method, the option, its value and what is allowed.
        """
        check(f"method {self.name}", self.options, given)

    def check(self, subject: Subject, given: Mapping[str, Any]) -> None:
        """Check that the method can rank the weights of ``subject`` with the options ``given``.

        Raises:
            ValueError: naming the method and what it needs, or the option that is wrong.
        """
        self.check_options(given)
        if self.when == "iterative":
            raise ValueError(f"method {self.name} prunes and trains in turn: it has no ranking of a given network")
        if self.needs is not None and subject.model is None:
            raise ValueError(f"method {self.name} needs the network: pass model")
        if self.needs == "input_shape" and subject.input_shape is None:
            raise ValueError(f"method {self.name} needs the shape of an input: pass input_shape or data")
        if self.needs == "labels" and (subject.data is None or subject.data[1] is None):
            raise ValueError(f"method {self.name} needs samples with labels: pass data=(inputs, labels)")


def _method(name: str, module: str, declared: Mapping[str, Any] = {}, **fields: tuple[Any, Any]) -> Method:  # noqa: B006
    return Method(name, f"{__package__}.{module}:{name}", options(**fields), **declared)


_INITIALISATION = {"when": "initialisation"}
_LABELS = {"needs": "labels"}
_ITERATIVE = {"when": "iterative"}
_Fraction = Annotated[float, Field(ge=0, le=1)]

# In the order in which names() lists them: a function of the name in the module, what it needs, its options.
METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        _method("magnitude", "scores"),
        _method("magnitude_layerwise", "scores"),
        _method("random", "scores", {"when": "any"}),
        _method("lamp", "scores"),
        _method("random_erk", "layer_ratios", {"when": "any"}),
        _method("random_matched", "layer_ratios"),
        _method("smart_ratio", "layer_ratios", _INITIALISATION, last_linear=(_Fraction, 0.3)),
        _method("taylor", "sensitivity", _LABELS),
        _method("snip", "sensitivity", _INITIALISATION | _LABELS),
        _method("obd", "sensitivity", _LABELS, probes=(Count, 100), operator=(Literal["hessian", "ggn"], "hessian")),
        _method("grasp", "sensitivity", _INITIALISATION | _LABELS, temperature=(Positive, 200.0)),
        _method(
            "wood_fisher", "fisher", _LABELS, block_size=(Count, 50), damping=(Positive, 1e-5), memory_mb=(Count, 2048)
        ),
        _method(
            "synflow",
            "synaptic_flow",
            _INITIALISATION | {"needs": "input_shape", "depends_on_sparsity": True},
            rounds=(Count, 100),
        ),
        _method(
            "imp",
            "iterative",
            _ITERATIVE,
            rate=(Annotated[float, Field(gt=0, lt=1)], 0.2),
            rewind_epoch=(Annotated[int, Field(ge=0)], 1),
        ),
        _method("gmp", "iterative", _ITERATIVE, levels=(Count, 10), begin=(_Fraction, 0.0), end=(_Fraction, 0.75)),
        _method("rare_gems", "iterative", _ITERATIVE, search_epochs=(Count, 10), levels=(Count, 5), lr=(Positive, 0.1)),
    )
}


def declare(
    *, when: str = "trained", needs: str | None = None, depends_on_sparsity: bool = False
) -> Callable[[Function], Function]:
    """Decorator: what a method of your own needs, if it is more than the weights of a trained network.

    Such a method is called ``module:function`` in configurations, by :func:`rank` and by :func:`mask`.

    Args:
        when: see :class:`Method`.
        needs: see :class:`Method`.
        depends_on_sparsity: see :class:`Method`.
    """

    def mark(function: Function) -> Function:
        declared = {"when": when, "needs": needs, "depends_on_sparsity": depends_on_sparsity}
        setattr(function, "pruning_method", declared)  # noqa: B010 - a function has no such attribute for a type checker
        return function

    return mark


def names(when: str | None = None) -> list[str]:
    """Names of all built-in methods, or of those for ``when``.

    Methods for any network are among those for a trained one and among those for initialisation.
    """
    fits = {None: WHEN, "trained": ("trained", "any"), "initialisation": ("initialisation", "any")}.get(when, (when,))
    return [method.name for method in METHODS.values() if method.when in fits]


def method_of(name: str) -> Method:
    """The method called ``name``: a built-in one, or ``module:function``, whose module is imported.

    Raises:
        ValueError: for an unknown name, a function that cannot be imported or called, or one whose name ends in that
            of a control.
    """
    if not isinstance(name, str) or ":" not in name:
        return METHODS[choice("pruning method", name, [*METHODS, "module:function"])]
    # File names are made from it, see method_token, and names of controls stand behind it.
    if not all(part.isidentifier() for part in name.replace(":", ".").split(".")) or without_control(name)[1]:
        raise ValueError(
            f"pruning method {name!r}: expected module:function of Python identifiers, not ending in"
            f" {' or '.join(f'_{control}' for control in CONTROLS)}"
        )
    function = function_of("pruning method", name)
    declared = getattr(function, "pruning_method", {})
    two = declared.get("depends_on_sparsity") or declared.get("when") == "iterative"
    known = options_of(f"pruning method {name!r}", function, *("subject", "sparsity")[: 2 if two else 1])
    return Method(name, name, known, **declared)


def method_token(name: str) -> str:
    """A method's name as it stands in file names: the name, or ``pkg-module--function`` of ``pkg.module:function``.

    Python's names hold no hyphen, so no two methods share a token.
    """
    return name.replace(":", "--").replace(".", "-")


def method_name(token: str) -> str:
    """The method's name of a token that :func:`method_token` made."""
    return token.replace("--", ":").replace("-", ".")


def without_control(method: str) -> tuple[str, str]:
    """The method's own name and the control behind it, of a name like ``snip_reinitialise``; empty for none."""
    for control in CONTROLS:
        if method.endswith(f"_{control}"):
            return method.removesuffix(f"_{control}"), control
    return method, ""
