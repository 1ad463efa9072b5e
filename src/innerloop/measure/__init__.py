"""Measurements of a learner at a point of its training; they write the records that `diagnose` reads.

One line of `probe.jsonl` is one quantity at one moment: `step` (outer steps done), `name`, and `values` (one number a
task, or a sample) or `value`; where it applies, `split`, `inner_step` and `layer`. Not-finite numbers are null.

| name | split | what |
|---|---|---|
| setup | | the first line, a mapping: `every`, `wide` (looks between two wide ones), `val` and `train` (tasks), `inner_steps` (that `post` is judged after), `trained_steps`, `metric`, `loss`, `baselines` (name: mean score), `skipped` (quantity: why it does not apply) |
| post, pre | val; train on wide looks | query loss of each task after, and before, adaptation |
| score | val | the metric of each task after adaptation |
| lr | | the outer learning rate of the step before the look |
| update | | relative size of the last outer update, norm over norm; with `layer`, of that leaf of `meta` |
| trivial | val, train; once | loss of the best predictor that ignores inputs |
| support, query | val; wide | loss of each task after `inner_step` steps, on support and query |
| wrong | val, train; wide | query loss after adapting to the support of another task |
| averaged | val; wide | `post` of the average of the iterates |
| distance | wide | distance of the iterate from that average, relative |
| gradient | wide | norms of the meta-gradients of single tasks |
| signal, noise | wide | debiased squared norm of the meta-gradient; variance of its mean over a meta-batch |
| norm | wide | norm of the mean meta-gradient of those tasks, as it is |
| leverage | wide | the largest share of one task in that mean |
| curvature | wide | largest eigenvalue of identity minus the derivative of an inner step: `alpha lambda_max` for SGD; one number a task |
| sensitivity | wide | largest singular value of d fast_N / d fast_0, one number a task |
| backward | wide | norm of the query loss's derivative with respect to the state after `inner_step`, by `layer`, mean over tasks |
| first_order, first_order_error | wide | cosine and relative error of the first-order meta-gradient beside the exact one |
| state_leak, query_leak, class_leak, transduction | before training | what the checks for leaks found: largest change, or share of examples |
| quotient | before training, on demand | relative error of the meta-gradient against difference quotients, `values` by direction, `inner_step` = -log10 of the distance h |
"""
