(() => {
  const filters = document.querySelector(".filters");
  if (!filters) return;
  const buttons = [...filters.querySelectorAll("button")];
  const cards = [...document.querySelectorAll(".gallery > li")];
  const status = document.querySelector(".showing");

  const show = (kind) => {
    for (const button of buttons) {
      button.setAttribute("aria-pressed", String(button.dataset.filter === kind));
    }
    for (const card of cards) {
      card.hidden = kind !== "all" && !card.dataset.kinds.split(" ").includes(kind);
    }
    const shown = cards.filter((card) => !card.hidden).length;
    status.textContent = `Showing ${shown} of ${cards.length} pictures`;
  };

  for (const button of buttons) {
    button.addEventListener("click", () => show(button.dataset.filter));
  }
  filters.hidden = false;
  show("all");
})();
