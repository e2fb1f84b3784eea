// ---- a failed check: yours - finite difference = error, with the worst entry outlined ------------------------------

function failedChecks(step) {
  return step.inputs.filter(x => x.failed).map(x => {
    const {analytic, numeric, error, worst} = x.failed, {shape, panels} = array(error);
    const block = shape.join() !== x.shape.join();
    const options = {
      size: THIRD, unit: Math.max(...[analytic, numeric, error].map(a => magnitude(array(a)))) || 1,
      panel: panels > 1 ? cellOf(array(error), worst)[0] : undefined,
      axes: block ? shape.map(() => "") : axesOf(`d${x.name}`, shape)};
    const lead = panels > 1 && !block ? index(worst.slice(0, -2)) : "";
    const maps = [heatmap(`d${x.name}${lead}, yours`, analytic, options),
      ...[["finite difference", numeric], ["error", error]].map(
        ([name, a]) => heatmap(name, a, {...options, scale: "same scale"}))];
    queueMicrotask(() => { for (const map of maps) map.light?.([worst]); });   // once they are on the page
    return el("div", {class: "equation", role: "group", "aria-label": `gradient check of d${x.name} failed, worst ` +
      `entry ${index(worst)}`}, maps[0], sign("−"), maps[1], sign("="), maps[2]);
  });
}
