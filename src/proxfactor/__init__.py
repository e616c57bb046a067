"""proxfactor: constrained matrix factorization on PyTorch.

minimise over W, H:  loss(X, W H) + g(W) + h(H)

The public names below load what they need on first use, so that ``import proxfactor`` is cheap.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "prox": """
        Affine BerHu Binary Birkhoff Box CappedL1 CappedSimplex Cauchy CenterOn Codebook Columns Composed Concave
        Conjugate Convex Distance Dykstra ETP Eigen ElasticNetBall Entropy Envelope EpsInsensitive ExclusiveLasso
        Exponential ExponentialCone Fair FermiDirac Fixed Geman GroupL0 GroupL1Ball GroupLHalf GroupLasso GroupMCP
        GroupSCAD GroupTopK HalfSpace Hankel Hinge Hoyer Huber Hyperplane Integers Inverse Isotonic KSupport KyFan L0
        L1 L1Ball L1L2Ball L1MinusL2 L1Sphere L2 L2Ball L2Cubed L2Squared LHalf LInf LInfBall LTwoThirds Linear
        LinearSubspace LogBarrier LogDet LogSum Logistic MCP Max Minimum MirrorSymmetric NofM NonNegative
        NonNegativeSphere NonPositive Normalize Nuclear NuclearBall OutsideBall OverlappingGroups PSD Pinball Poisson
        Power Prox PseudoHuber QuadraticForm RadialMonotone Range RankAtMost RankPenalty RotatedCone Rows SCAD Scaled
        Schatten SecondOrderCone Simplex Singular Slab Slope Smooth SolidSimplex SparseSimplex Spectral SpectralBall
        Sphere Split SquaredHinge Stiefel SumLargest SumLargestAbs SumToOne SymmetricMatrix Toeplitz TopK
        TotalVariation TotalVariationImage Translated TransportPolytope Transposed TreeGroups TrendFilter
        TruncatedSquare Unconstrained Unimodal as_prox
    """,
    "losses": """
        KL AbsoluteError Beta ByColumn ByRow Frobenius FunctionLoss HingeLoss HuberLoss ItakuraSaito LogisticLoss Loss
        Multinomial NegativeBinomial Ordinal PinballLoss PoissonLog as_loss
    """,
    "comm": "Comm Group",
    "matrix": "Dense Matrix Observed Sparse Table as_matrix",
    "chunked": "Chunked",
    "optim": "APGM BSDMM NPG PGM AdaProx DavisYin ProxAdam ProxDoWG ProxLBFGS ProxOptimizer Proximal Residual",
    "modules": "Compacted compact constrain param_groups",
    "problem": "Problem Quadratic Tie",
    "streamed": "Streamed",
    "ties": "ARD GraphLaplacian MinVolume Orthogonal Symmetric",
    "solvers": "ADMM ALS APG HALS MU PALM Alternating Extrapolated KLNewton LossADMM Solver State",
    "fit": "Result factorize",
    "online": "Online",
    "archetypes": "Archetypes archetypal_analysis",
    "io": "load read save",
    "selection": "Advice Scan advise rank_scan",
    "ratings": """
        EASE GFCF BayesianMF Bias ExplicitMF ImplicitMF Popularity PureSVD Recommender SampledMF
        evaluate read_ratings split tune
    """,
}
_MODULES = ("cli", "datasets", "inits", "metrics", "report", "text", *_HOME)
_WHERE = {name: module for module, names in _HOME.items() for name in names.split()}
__all__ = ["__version__", *sorted(_WHERE)]


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        value = getattr(import_module(f".{_WHERE[name]}", __name__), name)
        globals()[name] = value
        return value
    if name in _MODULES:
        return import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, *_MODULES])
