// ---- a tour of five stops, on first opening ------------------------------------------------------------------------

const TOUR = [
  ["#jump", "You are at the loss.", "The backward starts here, with the gradient of the loss with respect to itself, 1, and ends " +
    "at the inputs. This list names all of its steps."],
  ["pre", "↓ goes to the next line, ↑ goes back.", "The line that ran last is marked. The numbers count the statements that ran."],
  ["#right", "The arrays that the line computed.", "The newest are on top: orange is positive, blue negative, white zero. Arrow keys " +
    "read the values of the heat map that has the focus."],
  ["#graph", "→ goes to the next op, ← to the previous one.", "Orange is the current op, green are those whose backward has run. " +
    "Click an op to go there."],
  ["#right .panels, #right .number", "Click a number, or press w: why?", "The answer is a sum whose value is this number. Its " +
    "terms are links, which lead up to the loss. The key ? lists all keys and opens this tour again."],
];
const tour = {stop: -1};

// once for each reader, not in a notebook, not where an address leads
function startTour() {
  if (window !== window.top || here().line || location.hash || store.get("tour")) return;
  showStop(0);
}

const tourButton = () => el("button", {onclick: () => { $("overlay").close(); showStop(0); }}, "Show the tour");

function showStop(stop) {
  const [, heading, text] = TOUR[stop], isLast = stop === TOUR.length - 1;
  tour.stop = stop;
  tour.box?.remove();
  tour.box = el("div", {id: "tour", role: "dialog", "aria-label": `tour, stop ${stop + 1} of ${TOUR.length}`}, el("b", {}, heading),
    el("p", {}, text), el("p", {class: "row"}, el("span", {class: "note"}, `${stop + 1} of ${TOUR.length}`),
      el("button", {onclick: endTour}, isLast ? "Close" : "Close for good (Esc)"),
      !isLast && el("button", {class: "go", onclick: () => showStop(stop + 1)}, "Next")));
  document.body.append(tour.box);
  const about = stopElement();
  if (about?.closest("#left, #arrays") && !state.line) intoSight(about, about, 10);
  placeTour();
  tour.box.querySelector("button:last-child").focus({preventScroll: true});
}

const stopElement = () => [...document.querySelectorAll(TOUR[tour.stop][0])].find(x => x.getClientRects().length);

// below, above or beside what the stop is about, which is outlined
function placeTour() {
  document.querySelector(".toured")?.classList.remove("toured");
  if (tour.stop < 0) return;
  const about = stopElement(), gap = 10, {offsetWidth: wide, offsetHeight: high} = tour.box;
  const {left, top, bottom, right} = about?.getBoundingClientRect() ?? {left: 0, top: 0, bottom: 0, right: 0};
  about?.classList.add("toured");
  const lowest = innerHeight - high - gap, beside = left > wide + gap ? left - wide - gap : right + gap;
  const [x, y] = bottom + gap <= lowest ? [left + gap, bottom + gap] : top - high >= 2 * gap ? [left + gap, top - high - gap] :
    [beside, lowest];
  tour.box.style.left = `${Math.max(gap, Math.min(x, innerWidth - wide - gap))}px`;
  tour.box.style.top = `${Math.max(gap, Math.min(y, lowest))}px`;
}

function endTour() {
  if (tour.stop < 0) return;
  store.set("tour", "seen");
  tour.stop = -1;
  tour.box.remove();
  placeTour();
}
