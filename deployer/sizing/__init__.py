"""How much memory a model takes on an engine, and how fast it can be at most. Pure arithmetic, in bytes.

`memory` gives every part for one engine, `fit` looks for the best use of devices, `wanted` for what a profile asks,
`catalogue` holds models to choose from. docs/fit.md says what each term is and how well it holds.
"""

from deployer.sizing.speed import rate_bound as rate_bound
from deployer.sizing.speed import rate_floor as rate_floor
