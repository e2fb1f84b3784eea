// ---- a failed check: how the gradient differs from finite differences, and where -----------------------------------

function failedChecks(step) {                               // the sentences; with the maps until one steps through the lines
  return step.checks.filter(row => !row.ok).flatMap(row => {
    const x = state.line === 0 && step.inputs.find(x => x.failed?.sentence === row.detail);
    return [el("p", {class: "alert"}, row.detail), ...x ? [failedMaps(x)] : []];
  });
}

const COMPARED = {width: 142, height: 140, panel: 142, panels: 142, tall: 4};

function failedMaps(x) {                                    // of the panel with the worst entry, which is outlined
  const {analytic, numeric, error, worst} = x.failed;
  const unit = Math.max(...[analytic, numeric].map(a => Number(array(a).max ?? 0))) || 1;
  const panel = array(error).panels > 1 ? cellOf(array(error), worst)[0] : undefined;
  const maps = [["yours", analytic, unit], ["finite difference", numeric, unit], ["error", error]].map(
    ([name, a, unit]) => heatmap(name, a, {size: COMPARED, unit, panel, axes: array(a).shape.map(() => "")}));
  queueMicrotask(() => { for (const map of maps) map.light?.([worst]); });     // once they are on the page
  return el("div", {class: "figures failed", role: "group", "aria-label":
    `gradient check of d${x.name}; worst entry ${index(worst)}`}, maps);
}
