// Light or dark: as the system says, or as the person chose.

const KEPT = "infill-theme";
const dark = matchMedia("(prefers-color-scheme: dark)");

function chosen() {
  try {
    return localStorage.getItem(KEPT);
  } catch {
    return null;  // Storage is off in this browser.
  }
}

function show() {
  document.documentElement.dataset.theme = chosen() ?? (dark.matches ? "dark" : "light");
}

export function startTheme(toggle, onChange) {
  show();
  dark.addEventListener("change", () => { show(); onChange(); });
  toggle.addEventListener("click", () => {
    const next = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
    try {
      if (next === (dark.matches ? "dark" : "light")) localStorage.removeItem(KEPT);
      else localStorage.setItem(KEPT, next);
    } catch { /* Then it holds for this visit. */ }
    document.documentElement.dataset.theme = next;
    onChange();
  });
}
