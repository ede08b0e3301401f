"""From a landscape to its spectrum: routes, blocks of probes, resumption."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch

from spectra.density import SpectralDensity, dense_spectrum, gram_spectrum
from spectra.errors import UserError
from spectra.lanczos import Array, KrylovSpace, end_eigenpairs, ends_bytes, from_rules
from spectra.landscape import Landscape
from spectra.operators import Curvature, JacobianSandwich, SymmetricOperator
from spectra.plan import Plan, in_bytes, make_operator, most_deflated, plan_route, with_block, with_stored_space
from spectra.sharded import ShardedLandscape
from spectra.slq import deflated_space, empty_density, next_probes
from spectra.spectrum import Spectrum, SpectrumSettings, TopEigenpairs

OnBlock = Callable[[Spectrum], None]
Progress = Callable[[int, int, str], None]
# Ritz pairs count as eigenvalues when their residual is below this share of themselves.
CONVERGED = 1e-3


def compute_spectrum(
    landscape: Landscape | ShardedLandscape,
    settings: SpectrumSettings | None = None,
    *,
    operator: SymmetricOperator | None = None,
    resume: Spectrum | None = None,
    on_block: OnBlock | None = None,
    progress: Progress | None = None,
) -> Spectrum:
    """The spectrum of a curvature of the landscape at its anchor.

    Args:
        landscape: model, data and cost; of a sharded model all ranks call this together.
        settings: what to compute; default the Hessian by 8 probes of 64 steps, deflated.
        operator: the curvature that the settings name, on this landscape; made if not given.
        resume: an earlier, partial result of the same landscape and settings (its probes may be fewer); what it
            holds is kept as it is.
        on_block: called with the partial result during the deflation and after it, when it has no probes yet, and after
            each block of probes, to store it.
        progress: called as ``progress(done, total, what)`` in operator-vector products of this run: what is resumed
            is not among them.

    Returns:
        The complete spectrum.

    Raises:
        UserError: if the settings do not fit the landscape or the memory, or ``resume`` is not of this landscape; for
            other than the Hessian and the Gauss-Newton matrix of a sharded model, its layers one by one or top pairs.

    >>> import torch
    >>> from spectra.costs import mean_squared_error
    >>> model, x = torch.nn.Linear(1, 1, bias=False), torch.tensor([[1.0], [2.0]])
    >>> landscape = Landscape(model, mean_squared_error, (x, torch.zeros(2, 1)))
    >>> round(compute_spectrum(landscape).density.trace().value, 5)  # 2 mean(x^2)
    5.0
    """
    settings = settings or SpectrumSettings()
    if settings.layers != "*":
        landscape = landscape.restricted(settings.layers)
    if resume is not None:
        settings = replace(settings, strategy=resume.strategy or settings.strategy)
        _check_same(landscape, resume)
    if isinstance(landscape, ShardedLandscape) and settings.per_layer:
        raise UserError("spectra per layer are not computed of a sharded model: name its parameters with layers")
    operator = make_operator(landscape, settings) if operator is None else operator
    settings = with_block(settings, operator, 0 if resume is None else resume.settings.block)
    run = _Run(landscape, settings, resume, on_block, progress)
    spectrum = run.whole(operator)
    if settings.per_layer:
        spectrum = run.layers(spectrum)
    return spectrum


def _check_same(landscape: Landscape | ShardedLandscape, resume: Spectrum) -> None:
    if resume.data_sha256 != landscape.batches.sha256:
        raise UserError("the result to resume is of other data: its digest differs from this landscape's")
    if tuple(name for name, _ in resume.parameters) != landscape.parameters.names:
        raise UserError("the result to resume is of other parameters than this landscape's")


@dataclass
class _Run:
    """One computation: where it stands, and whom to tell."""

    landscape: Landscape | ShardedLandscape
    settings: SpectrumSettings
    resume: Spectrum | None
    on_block: OnBlock | None
    progress: Progress | None
    done: int = 0  # products that the result took
    here: int = 0  # those of this run
    total: int = 0
    top: TopEigenpairs | None = None

    def whole(self, operator: SymmetricOperator) -> Spectrum:
        """The spectrum of all parameters."""
        check_top(operator, self.settings)
        plan = plan_route(operator, self.settings)
        self.top = None if self.resume is None else self.resume.top
        if self.resume is not None and self.resume.density.exact:
            self._find_top(operator)
            return replace(self.resume, settings=self.settings, top=self.top, products=self.resume.products + self.done)
        self.done += 0 if self.top is None else self.top.products
        if self.resume is None:
            self._facts()  # first, for the gradient refuses models whose parameters it cannot reach
        if self.settings.per_layer:
            self._count_layers(operator)
        start = _begun(self.resume.density) if self.resume is not None else None
        plan = self._counted(plan, start)

        def report(density: SpectralDensity, ritz: tuple[Array, Array]) -> Spectrum:
            spectrum = self._spectrum(operator, plan, density, ritz)
            if self.on_block is not None:
                self.on_block(spectrum)
            return spectrum

        return self._density(operator, plan, start, report, "spectrum", lambda: self._find_top(operator))

    def _find_top(self, operator: SymmetricOperator) -> None:
        """The eigenpairs of both ends, unless they are not asked for or stored already."""
        settings = self.settings
        if self.resume is not None and self.resume.has_top(settings):
            return
        if not settings.top:
            return

        told = 0

        def tell(count: int) -> None:
            nonlocal told
            told += count
            self.total += count
            self._tell(count, "spectrum: top eigenpairs")

        largest, negative = end_eigenpairs(operator, settings.top, seed=settings.seed, progress=tell)
        ends = [largest, negative] if negative is not None else [largest]
        products = sum(end.products for end in ends)
        tell(products - told)  # those of the residuals
        vectors = torch.cat([end.vectors for end in ends])
        self.top = TopEigenpairs(
            asked=settings.top,
            values=np.concatenate([end.values for end in ends]),
            residuals=np.concatenate([end.residuals for end in ends]),
            bound=max(end.bound for end in ends),
            products=products,
            vectors=(vectors if settings.keep_vectors else vectors[:0]).cpu().numpy(),
        )

    def layers(self, spectrum: Spectrum) -> Spectrum:
        """The same for each layer's diagonal block, its products computed as those of the whole, or of the first."""
        known: Mapping[str, SpectralDensity] = self.resume.layers if self.resume is not None else {}
        stored: Mapping[str, str] = self.resume.layer_strategies if self.resume is not None else {}
        strategy = spectrum.strategy or next(iter(stored.values()), self.settings.strategy)
        for layer, names in self.landscape.parameters.layers().items():
            block, notes = self._block(names, layer, stored.get(layer, strategy))
            plan = plan_route(block, _layer_settings(block, self.settings))
            found = _begun(known.get(layer))
            if found is not None and plan.route == "slq":
                plan = with_stored_space(plan, found.deflation.captured)
            spectrum = replace(spectrum, notes=tuple(dict.fromkeys(spectrum.notes + notes)))

            def report(
                density: SpectralDensity,
                _: tuple[Array, Array],
                layer: str = layer,
                base: Spectrum = spectrum,
                block: SymmetricOperator = block,
            ) -> Spectrum:
                used = {layer: _used(block)} if _used(block) else {}
                changed = replace(
                    base,
                    layers={**base.layers, layer: density},
                    layer_strategies={**base.layer_strategies, **used},
                    products=self.done,
                )
                if self.on_block is not None:
                    self.on_block(changed)
                return changed

            if found is not None and _finished(found, self.settings):
                spectrum = replace(spectrum, layers={**spectrum.layers, layer: found})
                self.done += plan.products
                continue
            spectrum = self._density(block, plan, found, report, layer)
            strategy = strategy if strategy != "auto" else _used(block) or strategy
        return spectrum

    def _block(self, names: tuple[str, ...], layer: str, strategy: str) -> tuple[SymmetricOperator, tuple[str, ...]]:
        """A layer's block by a strategy, or by the core where that fails on it, and a sentence that says so."""
        settings = replace(self.settings, strategy=strategy)
        block = make_operator(self.landscape, settings).restricted(names)
        if strategy == "auto" or not isinstance(block, Curvature):
            return block, ()
        core = block.strategies()[0].name
        try:
            # The first product tries it.
            block.matvec(torch.zeros(block.size, dtype=block.dtype, device=block.device))
        except UserError as error:
            if strategy == core:
                raise
            block = make_operator(self.landscape, replace(settings, strategy=core)).restricted(names)
            return block, (f"{layer or '(root)'} by {core}: {error}",)
        return block, ()

    def _count_layers(self, operator: SymmetricOperator) -> None:
        known: Mapping[str, SpectralDensity] = self.resume.layers if self.resume is not None else {}
        for layer, names in self.landscape.parameters.layers().items():
            block, found = operator.restricted(names), _begun(known.get(layer))
            if found is None or not _finished(found, self.settings):
                self._counted(plan_route(block, _layer_settings(block, self.settings)), found)

    def _counted(self, plan: Plan, start: SpectralDensity | None) -> Plan:
        """The plan, from a stored part on; what it has still to do is counted as work of this run."""
        if start is None or plan.route != "slq":
            self.total += plan.products
            return plan
        plan = with_stored_space(plan, start.deflation.captured)
        if not _finished(start, self.settings):
            self.total += plan.products - start.runs.probes * start.runs.steps
        return plan

    def _density(
        self,
        operator: SymmetricOperator,
        plan: Plan,
        start: SpectralDensity | None,
        report: Callable[[SpectralDensity, tuple[Array, Array]], Spectrum],
        what: str,
        find_top: Callable[[], None] = lambda: None,
    ) -> Spectrum:
        if plan.route != "slq":
            density, largest = self._unsampled(operator, plan, what)
            find_top()
            return report(density, (largest, np.zeros(len(largest))))
        if self.resume is not None and start is not None and _finished(start, self.settings):
            # Only eigenpairs or layers were added to what was asked for: the whole is not deflated again.
            self.done += plan.products
            find_top()
            return report(start, (self.resume.eigenvalues, self.resume.residuals))

        def part(space: KrylovSpace) -> None:
            report(empty_density(operator, self.settings, space), _converged(space))

        space = deflated_space(
            operator,
            self.settings,
            plan,
            what,
            lambda count: self._tell(count, f"{what}: deflation"),
            part if start is None else None,
        )
        density = empty_density(operator, self.settings, space)
        if start is not None:
            if (0 if space is None else space.captured) != start.deflation.captured:
                raise UserError(
                    f"the deflated space could not be rebuilt: {start.deflation.captured} dimensions are stored, "
                    f"{0 if space is None else space.captured} were found; compute anew"
                )
            # The stored part is kept to the last bit; the rebuilt basis only projects further probes.
            density = start
            self.done += start.runs.probes * start.runs.steps
        ritz = _converged(space) if space is not None else (np.empty(0), np.empty(0))
        # The deflated part is kept as soon as it is known: it has the largest eigenvalues.
        first = start is None and space is not None
        spectrum = report(density, ritz) if first else None
        find_top()
        if self.top is not None:
            spectrum = report(density, ritz)
        while density.runs.probes < self.settings.probes:
            tell = partial(self._tell, what=f"{what}: probes")
            runs = next_probes(operator, self.settings, plan, space, density.runs.probes, what, tell)
            density = density.with_runs(runs)
            spectrum = report(density, ritz)
        assert spectrum is not None
        return spectrum

    def _unsampled(self, operator: SymmetricOperator, plan: Plan, what: str) -> tuple[SpectralDensity, Array]:
        """The density by another route than our sampling, and its largest eigenvalues by magnitude, if it has any."""
        if plan.route == "pyhessian":
            return self._by_pyhessian(operator), np.empty(0)
        density = dense_spectrum(operator) if plan.route == "dense" else gram_spectrum(_sandwich(operator))
        self._tell(plan.products, what)
        values = density.deflation.nodes[np.argsort(-np.abs(density.deflation.nodes), kind="stable")][:32]
        return replace(density, epsilon=torch.finfo(operator.dtype).eps), values

    def _by_pyhessian(self, operator: SymmetricOperator) -> SpectralDensity:
        from spectra.pyhessian import pyhessian_density

        if self.settings.operator != "hessian":
            raise UserError(f"PyHessian computes the Hessian only, not the {operator.name}")
        assert isinstance(self.landscape, Landscape)
        steps = min(self.settings.steps, operator.size)
        nodes, weights = pyhessian_density(self.landscape, self.settings.probes, steps, seed=self.settings.seed)
        self._tell(self.settings.probes * steps, "PyHessian")
        epsilon = torch.finfo(operator.dtype).eps
        return SpectralDensity(operator.size, from_rules(nodes, weights), operator=operator.name, epsilon=epsilon)

    def _spectrum(
        self, operator: SymmetricOperator, plan: Plan, density: SpectralDensity, ritz: tuple[Array, Array]
    ) -> Spectrum:
        landscape = self.landscape
        layout = landscape.parameters
        facts = (self.resume.cost, self.resume.gradient_norm) if self.resume is not None else self._facts()
        return Spectrum(
            density=density,
            settings=self.settings,
            route=plan.route,
            strategy=getattr(operator, "strategy", "") if plan.route in ("slq", "dense") else "",
            notes=tuple(dict.fromkeys((*plan.notes, *operator.notes))),
            cost=facts[0],
            gradient_norm=facts[1],
            samples=landscape.samples,
            parameters=tuple((n, tuple(s)) for n, s in zip(layout.names, layout.shapes, strict=True)),
            data_sha256=landscape.batches.sha256,
            products=self.done,
            eigenvalues=ritz[0],
            residuals=ritz[1],
            layers=self.resume.layers if self.resume is not None else {},
            layer_strategies=self.resume.layer_strategies if self.resume is not None else {},
            top=self.top,
        )

    def _facts(self) -> tuple[float, float]:
        if not hasattr(self, "_known_facts"):
            norm = self.landscape.gradient_norm()
            self._known_facts = (self.landscape.cost(), norm)
        return self._known_facts

    def _tell(self, count: int, what: str) -> None:
        self.done, self.here = self.done + count, self.here + count
        if self.progress is not None:
            self.progress(self.here, self.total, what)


def check_top(operator: SymmetricOperator, settings: SpectrumSettings) -> None:
    """Refuse more top eigenpairs than there are, or than the memory has room for.

    Raises:
        UserError: if one of these holds.
    """
    if settings.top and operator.pieces is not None:
        raise UserError("top eigenpairs are not computed of a sharded model: its spectrum has the largest eigenvalues")
    count, need = settings.top, ends_bytes(operator.size, settings.top, operator.dtype)
    if count > operator.size:
        raise UserError(f"--top must be at most the {operator.size:,} parameters, got {count:,}")
    if count and min(need, operator.size**2 * operator.dtype.itemsize) > settings.memory:
        raise UserError(
            f"--top {count} holds vectors of {in_bytes(need)}, past the memory of {in_bytes(settings.memory)}: ask for "
            "fewer, or give more --memory"
        )


def _begun(density: SpectralDensity | None) -> SpectralDensity | None:
    """A stored density that is gone on with: one that has no probe yet, perhaps of half a space, is computed anew."""
    return None if density is None or density.unsampled else density


def _finished(density: SpectralDensity, settings: SpectrumSettings) -> bool:
    return density.exact or density.runs.probes >= settings.probes


def _used(block: SymmetricOperator) -> str:
    """The strategy of a block that has computed products; empty if it has none, or computed none."""
    found = str(getattr(block, "strategy", ""))
    return "" if found == "auto" else found


def _layer_settings(block: SymmetricOperator, settings: SpectrumSettings) -> SpectrumSettings:
    """PyHessian knows no layers, and a layer too small for the deflation asked for is deflated as far as it goes."""
    engine = "auto" if settings.engine == "pyhessian" else settings.engine
    deflate = settings.deflate if settings.deflate <= most_deflated(block, settings) else -1
    return replace(settings, engine=engine, deflate=deflate)


def _sandwich(operator: SymmetricOperator) -> JacobianSandwich:
    assert isinstance(operator, JacobianSandwich)
    return operator


def _converged(space: KrylovSpace) -> tuple[Array, Array]:
    values, residuals = space.ritz()
    kept = residuals <= CONVERGED * np.abs(values)
    # Beyond the first that has not converged, larger ones may be missing.
    count = int(np.argmin(kept)) if not kept.all() else len(kept)
    return values[:count], residuals[:count]
