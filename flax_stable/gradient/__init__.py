"""Gradients on purpose: functions whose derivative is not that of their value.

Those that are linear in the gradient (all but `clip_gradient`) work in forward mode
too, where they do to tangents what they do to gradients.  Arguments are arrays or
pytrees of arrays; integers in them pass as they are.  Gradients keep the dtype and the
sharding of what they belong to; in 16 bits they are scaled in float32 and rounded once.
"""

from ._flow import clip_gradient as clip_gradient
from ._flow import reverse_gradient as reverse_gradient
from ._flow import scale_gradient as scale_gradient
from ._flow import stop_gradient_where as stop_gradient_where
from ._replace import replace_gradient as replace_gradient
from ._replace import straight_through as straight_through
from ._replace import straight_through_round as straight_through_round
from ._replace import straight_through_sign as straight_through_sign
