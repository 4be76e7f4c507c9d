//! `[device]`, `[watchdog]`, `[gpio]`, `[memory]`, `[log]`.

use super::{Scope, Section, choice, names, switch, text, texts, whole};
use crate::config::sections::board::LEVELS;

pub(super) const DEVICE: Section = Section::new("device", Scope::Device, &[
    text("name", "flytrap").help(
        "Name of this device in every event. 1 to 32 characters: letters, digits, - _ . \
        Each device needs its own name: events of two devices with one name cannot be told apart.",
    ),
    text("state_folder", "").help(
        "Folder for what must survive a restart: how many times the program was started and how the last run ended. \
        \"\" = no folder; those figures are then missing from the events. Written at start and at exit only. \
        Under systemd set StateDirectory=flytrap and use \"/var/lib/flytrap\".",
    ),
]);

pub(super) const WATCHDOG: Section = Section::new("watchdog", Scope::Watchdog, &[
    text("device", "").help(
        "Hardware watchdog that resets the board when a stage hangs, such as \"/dev/watchdog\". \"\" = no hardware watchdog: \
        the program exits instead and its supervisor must start it again. systemd's watchdog (WatchdogSec=) needs no setting.",
    ),
    whole("timeout_s", 15, 5, 3600).unit("seconds").help(
        "Time without a sign of life after which the hardware watchdog resets the board. A value that the hardware does not \
        support is an error; a Raspberry Pi with an older kernel supports at most 15.",
    ),
    whole("stage_timeout_s", 30, 5, 600).unit("seconds").live().help(
        "Longest time that one step of a stage may take, such as processing a frame or opening the camera. A stage that takes \
        longer counts as hung. Raise it if a slow camera or disk causes resets.",
    ),
]);

pub(super) const GPIO: Section = Section::new("gpio", Scope::Gpio, &[
    text("chip", "auto").help(
        "Which pins to use: \"auto\" = those of a Raspberry Pi, on other boards the kernel's first GPIO chip; \"rppal\" = those \
        of a Raspberry Pi; or a GPIO chip such as \"/dev/gpiochip1\". Pin numbers below are the chip's own; on a Raspberry Pi \
        they are the GPIO numbers (GPIO17 is 17). `flytrap pins` tests a pin.",
    ),
    whole("status_led", -1, -1, 255).special(-1, "none").help(
        "Pin of a status LED. One flash every 3 seconds: all is well; two: no camera; three: no connection to the receiver; \
        half on, half off: data is being lost.",
    ),
    whole("motion_sensor", -1, -1, 255).special(-1, "none").help(
        "Pin of a motion sensor (PIR) that is high while something moves. Motion there opens the motion gate for gate.hold_ms, \
        whatever the frames show.",
    ),
    whole("light", -1, -1, 255).special(-1, "none").help(
        "Pin of a light that is switched on when something moves in the dark.",
    ),
    whole("light_hold_s", 30, 1, 3600).unit("seconds").live().help(
        "How long the light stays on after the last motion.",
    ),
    whole("light_dark_below", 60, 1, 255).unit("brightness levels (of 255)").live().help(
        "It is dark while the mean brightness of the frame is below this. Raise it to switch the light on earlier in the evening.",
    ),
    texts("inverted", &[]).help(
        "Pins for which low means on, as most relay boards need: any of \"status_led\", \"motion_sensor\", \"light\".",
    ),
]);

pub(super) const MEMORY: Section = Section::new("memory", Scope::Memory, &[
    whole("budget_mb", 128, 16, 65_536).unit("MiB").help(
        "Memory budget of the whole program. All large buffers are allocated before the first frame; if they add up to more \
        than this the program refuses to start and prints the list. Raise it for larger frames or a larger model.",
    ),
    whole("ring_mb", 32, 1, 4096).unit("MiB").help(
        "Most memory for frames that wait for processing, shared evenly by all cameras. Three frames of each must fit; raise it \
        for large raw frames.",
    ),
]);

pub(super) const LOG: Section = Section::new(
    "log",
    Scope::Log,
    &[
        choice("level", "info", const { &names(&LEVELS) })
            .help("How much to log to stderr: this level and all more serious ones."),
        switch("json", false)
            .help("Log one JSON object per line instead of text. The option --json does the same."),
    ],
);
