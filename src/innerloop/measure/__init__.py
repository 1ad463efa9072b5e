"""Measurements of a learner at a point of its training; they write the records that `diagnose` reads.

One line of `probe.jsonl` is one quantity at one moment: `step` (outer steps done), `name`, and `values` (one
number a task, or a sample) or `value`; where they apply, `split`, `inner_step`, `layer`, `scale`, `family`.
Numbers that are not finite are null. Of every look:

    setup           a mapping, of the last such line: every, wide (looks between two wide ones), val and train
                    (tasks), inner_steps (that post is judged after), trained_steps, metric, loss, skipped
                    (why a quantity does not apply)
    post, pre       query loss of each task of val after, and before, adaptation; of train at wide looks
    score           the metric of each task of val after adaptation
    lr              the outer rate of the step before the look
    update          relative size of the last outer update; with layer, of that leaf of meta
    trivial         once: loss of each task for the best predictor that ignores inputs

Of wide looks, one in five:

    support, query  loss of each task after inner_step steps
    stretched       support loss where each inner step goes scale times as far
    wrong           query loss after adapting to the support of another task
    averaged        post of the average of the iterates
    distance        relative distance of the iterate from that average
    gradient        norms of the meta-gradients of single tasks
    signal, noise   debiased squared norm of the meta-gradient; variance of its mean over a meta-batch
    norm, leverage  norm of the mean of those meta-gradients, as it is; largest share of one task in it
    conflict        mean inner products of the gradients of two families (layer): across, within each
    curvature       largest eigenvalue of identity minus the derivative of an inner step, of each task
    sensitivity     largest singular value of the adapted state's derivative by the initial one, of each task
    backward        norm of the query loss's derivative by the state after inner_step, by layer
    first_order     cosine of the first-order meta-gradient with the exact one; first_order_error: distance

Of streams, at looks of their own, often after a switch: post, score and (once) trivial with family, of tasks
of its validation split, each adapted to afresh. setup then has families, family_tasks (of each) and stages:
family, start, end (outer steps). Of the last look:

    sequential      score of each of inner_step tasks in a row, adapted to without going back, on the query of
                    the task (or of that of the family) that is named family; inner_step 0 is before the first

Before training: state_leak, query_leak, class_leak and transduction, largest change or share of examples; on
demand, quotient: relative errors of the meta-gradient by direction, inner_step = -log10 of the distance.
"""
