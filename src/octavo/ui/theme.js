// Loaded before anything is painted, so that a page in the chosen theme never flashes in the other.
try {
  const theme = localStorage.getItem("octavo.theme");
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
} catch { /* where storage is switched off, the system's theme is used */ }
