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

  // A network that changes breaks off what is being loaded, and without one module there is no page: a few more tries.
  const missing = (event) => {
    if (!tab || !["SCRIPT", "LINK"].includes(event.target.nodeName)) return;
    removeEventListener("error", missing, { capture: true });
    const [last, before] = JSON.parse(tab.getItem("reloads") ?? "[0, 0]");
    const tries = Date.now() - last < 10_000 ? before + 1 : 1;
    if (tries > 4) return;
    tab.setItem("reloads", JSON.stringify([Date.now(), tries]));
    setTimeout(() => location.reload(), 500 * tries);
  };
  addEventListener("error", missing, { capture: true });
}
