// ---- a failed check: how the gradient differs from finite differences, and where -----------------------------------

function failedChecks(step) {
  return step.checks.filter(row => !row.ok).flatMap(row => {
    const x = step.inputs.find(x => x.failed?.sentence === row.detail);
    return [el("p", {class: "alert"}, row.detail), x && failedMaps(x)];
  }).filter(Boolean);
}

const COMPARED = {width: 142, height: 140, panel: 50, panels: 220, tall: 4};

function failedMaps(x) {                                    // yours and the finite difference on one colour scale
  const {analytic, numeric, error, worst} = x.failed;
  const unit = Math.max(...[analytic, numeric].map(a => Number(array(a).max ?? 0))) || 1;
  const maps = [heatmap(`d${x.name}, yours`, analytic, {size: COMPARED, unit}),
    heatmap("finite difference", numeric, {size: COMPARED, unit}), heatmap("error", error, {size: COMPARED})];
  queueMicrotask(() => { for (const map of maps) map.light?.([worst]); });     // once they are on the page
  return el("div", {class: "figures failed"}, maps);
}
