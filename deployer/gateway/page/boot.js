// Before the first paint: the theme that was chosen, and the language; and another try where a file did not arrive.
{
  let kept = null;
  let tab = null;
  try {
    kept = localStorage;
    tab = sessionStorage;
  } catch {
    // a browser that keeps nothing: the system's theme and language
  }
  const theme = kept?.getItem("theme");
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
  const wanted = kept?.getItem("language") ?? navigator.language;
  document.documentElement.lang = wanted.toLowerCase().startsWith("zh") ? "zh-CN" : "en";

  // A network that changes breaks off what is being loaded, and without one module there is no page: once more then.
  const missing = (event) => {
    if (!["SCRIPT", "LINK"].includes(event.target.nodeName)) return;
    if (!tab || Date.now() - tab.getItem("reloaded") < 5000) return;
    tab.setItem("reloaded", Date.now());
    setTimeout(() => location.reload(), 500);
  };
  addEventListener("error", missing, { capture: true });
}
