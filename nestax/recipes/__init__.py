"""Published tables and figures, one module each: protocol, cells, how a cell is measured, claims."""

from ._claims import (
    Bound as Bound,
    Claim as Claim,
    Metrics as Metrics,
    Order as Order,
    Value as Value,
    above as above,
    at as at,
    at_least as at_least,
    at_most as at_most,
    below as below,
    between as between,
    claims as claims,
    difference as difference,
    each as each,
    equal as equal,
    first_is_least as first_is_least,
    increasing as increasing,
    ratio as ratio,
    measured as measured,
    values as values,
)
from ._plots import (
    heat_maps as heat_maps,
    histories as histories,
    images as images,
    lines as lines,
    over_seeds as over_seeds,
)
from ._recipe import (
    SCALES as SCALES,
    Recipe as Recipe,
    Results as Results,
    Trial as Trial,
    by_key as by_key,
    first as first,
    gather as gather,
    grid as grid,
)
from ._registry import RECIPES as RECIPES, by_name as by_name
from ._runner import report as report, reproduce as reproduce
from ._tables import by_seed as by_seed, markdown as markdown, span as span, spread as spread
from ._zoo import make_pretrained as make_pretrained
