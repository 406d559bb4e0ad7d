// What the slider of Gradio lacks: names of its pictures for those who do not see them, and the arrow keys.
(() => {
  const STEP = 0.05;
  const mend = () => {
    const words = [...document.querySelectorAll("#result .sides span")].map((side) => side.textContent.trim());
    const pictures = document.querySelectorAll("#slider [data-testid=imageslider-image]");
    pictures.forEach((picture, i) => {
      if (words[i] && picture.alt !== words[i]) picture.alt = words[i];
    });
    const handle = document.querySelector("#slider [data-testid=slider]");
    if (handle && handle.tabIndex !== 0) {
      handle.tabIndex = 0;
      handle.setAttribute("role", "slider");
      handle.setAttribute("aria-label", "Border between the left and the right picture");
      handle.setAttribute("aria-valuemin", "0");
      handle.setAttribute("aria-valuemax", "100");
      handle.setAttribute("aria-valuenow", "50");
      handle.addEventListener("keydown", move);
    }
    document.querySelectorAll("#scenes button[aria-label^=Thumbnail]").forEach((button) => {
      const picture = button.querySelector("img");
      if (picture) button.setAttribute("aria-label", "Scene: " + picture.alt);
    });
  };
  const move = (event) => {
    const way = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!way) return;
    event.preventDefault();
    const handle = event.currentTarget, frame = handle.parentElement.getBoundingClientRect();
    const box = handle.getBoundingClientRect(), from = box.left + box.width / 2, y = box.top + box.height / 2;
    const to = Math.min(frame.right, Math.max(frame.left, from + way * STEP * frame.width));
    const say = (kind, target, x) =>
      target.dispatchEvent(new MouseEvent(kind, { bubbles: true, cancelable: true, view: window, clientX: x, clientY: y }));
    say("mousedown", handle, from);
    say("mousemove", window, to);
    say("mouseup", window, to);
    handle.setAttribute("aria-valuenow", String(Math.round((100 * (to - frame.left)) / frame.width)));
  };
  new MutationObserver(mend).observe(document.documentElement, { subtree: true, childList: true, characterData: true });
})();
