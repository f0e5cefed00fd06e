// Before the first paint: the theme that was chosen, and the language.
{
  let kept = null;
  try {
    kept = localStorage;
  } catch {
    // a browser that keeps nothing: the system's theme and language
  }
  const theme = kept?.getItem("theme");
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
  const wanted = kept?.getItem("language") ?? navigator.language;
  document.documentElement.lang = wanted.toLowerCase().startsWith("zh") ? "zh-CN" : "en";
}
