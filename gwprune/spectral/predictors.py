"""The registry of predictors: what each one needs, how it is described, and which function computes it.

The configuration, the workflow's rules, the tables and the figures read it, so this module imports neither torch nor
numpy. A new predictor is one module with a function ``(problem, epsilon) -> Estimate`` and one entry here; see
:class:`gwprune.spectral.problem.Problem` for what the function is given. One with a model of its own for each of
several criteria takes ``(problem, epsilon, criterion)``.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .problem import Problem
    from .spectrum import Estimate

__all__ = ["NEEDS", "PREDICTORS", "Predictor"]

NEEDS = ("spectrum", "products", "gradient", "loss")
_OPERATORS = ("hessian", "ggn")


@dataclass(frozen=True)
class Predictor:
    """One way to predict the threshold.

    Attributes:
        name: as in the tables and in the argument ``predictor`` of :func:`gwprune.predict_threshold`.
        needs: what it is computed from, some of ``NEEDS``: the ``"spectrum"`` (coefficients of the probes), further
            ``"products"`` with the operator, the ``"gradient"`` of the data loss, the data ``"loss"`` at other weights.
        apart: whether the workflow gives each operator a job of its own.
        text: one line for tables, help and documentation.
        implementation: ``"module:function"``, the module as `importlib.import_module` takes it from this package
            (``".width"``), imported when the predictor is first used.
        costly: whether each method takes it hundreds of products or more: the workflow then asks for the methods that
            are fine-tuned, or where there are none for the first.
        default: whether it is computed where no predictors are named; a baseline that costs much need not be.
        operators: names of the operators that it can be computed with; all, unless each has a job of its own.
        criteria: those that it has a model of its own for; ``("",)`` for one model that stands beside them all.
    """

    name: str
    needs: tuple[str, ...]
    apart: bool
    text: str
    implementation: str
    costly: bool = False
    default: bool = True
    operators: tuple[str, ...] = _OPERATORS
    criteria: tuple[str, ...] = ("",)

    def __post_init__(self):
        unknown = set(self.needs) - set(NEEDS)
        if unknown:
            raise ValueError(f"predictor {self.name}: needs must be some of {', '.join(NEEDS)}, got {unknown}")
        if self.operators != _OPERATORS and not self.apart:
            raise ValueError(f"predictor {self.name} leaves operators out, so it must be computed apart")

    @property
    def from_spectrum(self) -> bool:
        """Whether the probes' coefficients are all that it needs, so that it takes no product of its own."""
        return self.needs == ("spectrum",)

    def criterion_for(self, measured: str) -> str:
        """The one of its criteria whose model stands beside a measured criterion: its own, else the first.

        Args:
            measured: column ``criterion`` of table `empirical`; held against the control it is the same function.
        """
        name = measured.removeprefix("control_")
        return name if name in self.criteria else self.criteria[0]

    def threshold(self, problem: Problem, epsilon: float, criterion: str | None = None) -> Estimate:
        """The predicted threshold.

        Args:
            problem: the network's weights, their ranking, and what the predictor needs.
            epsilon: loss tolerance, positive.
            criterion: one of its criteria; None: the first.

        Returns:
            A sparsity in [0, 1] with its interval and standard error.

        Raises:
            ValueError: for an ``epsilon`` that is not positive, a criterion that it has no model for, or a problem
                without what the predictor needs.
        """
        criterion = self.criteria[0] if criterion is None else criterion
        if criterion not in self.criteria:
            raise ValueError(
                f"predictor {self.name}: criterion must be one of {', '.join(map(repr, self.criteria))}, got"
                f" {criterion!r}"
            )
        for need in self.needs:
            part = {"products": "operator"}.get(need, need)
            if getattr(problem, part) is None:
                raise ValueError(f"predictor {self.name} needs the {part}, which the problem does not have")
        module, _, function = self.implementation.partition(":")
        of_criterion = (criterion,) if criterion else ()
        return getattr(import_module(module, __package__), function)(problem, epsilon, *of_criterion)


# In the order in which tables and figures show them.
PREDICTORS: dict[str, Predictor] = {
    predictor.name: predictor
    for predictor in (
        Predictor(
            "width",
            needs=("spectrum",),
            apart=False,
            text="where the squared Gaussian width of the sublevel set meets the sparsity (Zhang et al. 2024)",
            implementation=".width:width_threshold",
        ),
        Predictor(
            "quadratic",
            needs=("products", "gradient"),
            apart=False,
            text="where the local quadratic model of the loss rise reaches epsilon",
            implementation=".quadratic:quadratic_threshold",
            criteria=("loss_tolerance", "objective_tolerance"),
        ),
        Predictor(
            "trace_bound",
            needs=("spectrum",),
            apart=False,
            text="a bound of the width's threshold from below, from the trace of |H| alone",
            implementation=".width:trace_bound",
        ),
        Predictor(
            "statistical_dimension",
            needs=("spectrum", "products"),
            apart=True,
            text="where the statistical dimension of the cone that the sublevel set spans meets the sparsity",
            implementation=".cones:cone_threshold",
        ),
        Predictor(
            "surgeon",
            needs=("products", "gradient"),
            apart=True,
            text="where the Gauss-Newton model of the loss rise, least over the kept weights, reaches epsilon",
            implementation=".surgeon:surgeon_threshold",
            costly=True,
            default=False,
            operators=("ggn",),
        ),
        Predictor(
            "surgeon_step",
            needs=("products", "gradient", "loss"),
            apart=True,
            text="where the loss that is measured after the step of `surgeon` has risen by epsilon",
            implementation=".surgeon:surgeon_step_threshold",
            costly=True,
            default=False,
            operators=("ggn",),
        ),
    )
}
