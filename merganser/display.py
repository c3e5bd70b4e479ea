def plan_text(flow):
    return repr([m.name for m in flow.materialized])
