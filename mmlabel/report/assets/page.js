(() => {
  const filters = document.querySelector(".filters");
  if (!filters) return;
  const buttons = [...filters.querySelectorAll("button")];
  const labels = filters.querySelector("select");
  const cards = [...document.querySelectorAll(".gallery > li")];
  const status = document.querySelector(".showing");
  let kind = "all";

  const has = (words, word) => words.split(" ").includes(word);
  const show = () => {
    for (const button of buttons) {
      button.setAttribute("aria-pressed", String(button.dataset.filter === kind));
    }
    for (const card of cards) {
      const concerned = card.querySelector("figure").dataset.labels;
      card.hidden =
        (kind !== "all" && !has(card.dataset.kinds, kind)) ||
        (labels.value !== "" && !has(concerned, labels.value));
    }
    const shown = cards.filter((card) => !card.hidden).length;
    status.textContent = `Showing ${shown} of ${cards.length} pictures`;
  };

  for (const button of buttons) {
    button.addEventListener("click", () => {
      kind = button.dataset.filter;
      show();
    });
  }
  labels.addEventListener("change", show);
  filters.hidden = false;
  show();
})();
