// The small buttons that both pages have: theme, language, and forgetting the key.

import { key } from "./api.js";
import { iconButton } from "./dom.js";
import { switchLanguage, switchTheme, t, theme } from "./language.js";

/** `changed()` is called when the language is another one. */
export function themeButton() {
  const name = () => `theme.${theme()}`;
  const button = iconButton("theme", name(), () => {
    switchTheme();
    button.dataset.label = name();
    button.title = t(name());
    button.setAttribute("aria-label", button.title);
  });
  return button;
}

export const languageButton = (changed) =>
  iconButton("language", "language.title", () => {
    switchLanguage();
    changed();
  });

export const forgetButton = () =>
  iconButton("key", "key.forget", () => {
    key.forget();
    location.reload();
  });
