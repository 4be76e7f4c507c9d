//! Chooses a camera's format. Pure: works on offers and requests, without a device.

use crate::capture::frame::PixelFormat;

/// One format that a camera can deliver.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Offer {
    /// How pixels lie in memory.
    pub pixel: PixelFormat,
    /// Pixels a row.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// Maximum frames per second; `None` if the driver does not say.
    pub fps_max: Option<f32>,
}

/// Our requirements for a format.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct FormatRequest {
    /// Only this width, if set.
    pub(super) width: Option<u32>,
    /// Only this height, if set.
    pub(super) height: Option<u32>,
    /// Only this layout, if set.
    pub(super) pixel: Option<PixelFormat>,
    /// Frames per second that are needed; a higher rate is no better.
    pub(super) fps: f32,
    /// Longer side of the model's input: a picture at least that long on its longer side loses nothing.
    pub(super) side: u32,
}

/// The best offer: fast enough first, then the smallest that is large enough for the model (else the largest), then the cheapest to read.
/// `None` if no offer meets the request.
pub(super) fn choose(offers: &[Offer], request: &FormatRequest) -> Option<Offer> {
    let insists = |offer: &&Offer| {
        request.width.is_none_or(|width| width == offer.width)
            && request.height.is_none_or(|height| height == offer.height)
            && request.pixel.is_none_or(|pixel| pixel == offer.pixel)
    };
    let price = |offer: &Offer| {
        let area = u64::from(offer.width) * u64::from(offer.height);
        let serves = offer.width.max(offer.height) >= request.side;
        // Offers without a rate rank below those that promise one.
        let fps = offer.fps_max.unwrap_or(0.0).min(request.fps);
        let size = if serves { area } else { u64::MAX - area };
        (-(fps * 1000.0) as i64, !serves, size, cost(offer.pixel))
    };
    offers.iter().filter(insists).min_by_key(|offer| price(offer)).copied()
}

/// Cost rank of a layout: bytes to read, then decoding, then missing colour.
const fn cost(pixel: PixelFormat) -> u8 {
    match pixel {
        PixelFormat::Nv12 => 0,
        PixelFormat::I420 => 1,
        PixelFormat::Yuyv => 2,
        PixelFormat::Uyvy => 3,
        PixelFormat::Rgb24 => 4,
        PixelFormat::Mjpeg => 5,
        PixelFormat::Grey => 6,
    }
}

/// Why a format did not start.
#[derive(Debug)]
pub(super) enum StartError<E> {
    /// The bus has no bandwidth for it: a lighter one may fit.
    Bandwidth(E),
    /// Anything else; another format would not help.
    Other(E),
}

/// Tries the best offer, and while the bus has no bandwidth for it the best of the lighter ones.
///
/// # Errors
/// The error of the last attempt: [`StartError::Bandwidth`] means that nothing lighter is left. `None` if no offer meets the request.
pub(super) fn start_best<T, E>(
    offers: &[Offer],
    request: &FormatRequest,
    mut start: impl FnMut(&Offer) -> Result<T, StartError<E>>,
) -> Option<Result<T, StartError<E>>> {
    let mut left = offers.to_vec();
    let mut outcome = None;
    while let Some(offer) = choose(&left, request) {
        match start(&offer) {
            Err(StartError::Bandwidth(why)) => {
                left.retain(|other| load(other) < load(&offer));
                outcome = Some(Err(StartError::Bandwidth(why)));
            }
            ended => return Some(ended),
        }
    }
    outcome
}

/// Bits of a frame on the bus: exact for raw ones; two bits a pixel for JPEGs, which cameras stay below.
fn load(offer: &Offer) -> u64 {
    let bits = match offer.pixel {
        PixelFormat::Mjpeg => 2,
        PixelFormat::Grey => 8,
        PixelFormat::Nv12 | PixelFormat::I420 => 12,
        PixelFormat::Yuyv | PixelFormat::Uyvy => 16,
        PixelFormat::Rgb24 => 24,
    };
    u64::from(offer.width) * u64::from(offer.height) * bits
}

/// Sizes to request where a driver accepts any size in a range: common ones within its limits, rounded to its steps.
pub(super) fn sizes_within(
    min: (u32, u32),
    max: (u32, u32),
    step: (u32, u32),
) -> impl Iterator<Item = (u32, u32)> {
    const COMMON: [(u32, u32); 7] =
        [(320, 240), (640, 360), (640, 480), (800, 600), (1280, 720), (1640, 1232), (1920, 1080)];
    let on_step = move |value: u32, min: u32, max: u32, step: u32| {
        value >= min && value <= max && (value - min).is_multiple_of(step.max(1))
    };
    COMMON
        .into_iter()
        .filter(move |&(w, h)| on_step(w, min.0, max.0, step.0) && on_step(h, min.1, max.1, step.1))
        .chain(Some(max))
}

#[cfg(test)]
mod tests {
    use super::*;
    use PixelFormat::{Grey, Mjpeg, Nv12, Rgb24, Yuyv};

    fn offer(pixel: PixelFormat, width: u32, height: u32, fps: f32) -> Offer {
        Offer { pixel, width, height, fps_max: (fps > 0.0).then_some(fps) }
    }

    const REQUEST: FormatRequest =
        FormatRequest { width: None, height: None, pixel: None, fps: 6.0, side: 640 };

    #[test]
    fn the_cheapest_sufficient_format_is_chosen() {
        // A common USB camera: raw at high rates only when small.
        let usb = [
            offer(Mjpeg, 1920, 1080, 30.0),
            offer(Mjpeg, 1280, 720, 30.0),
            offer(Mjpeg, 640, 480, 30.0),
            offer(Yuyv, 640, 480, 30.0),
            offer(Yuyv, 320, 240, 30.0),
            offer(Yuyv, 1280, 720, 10.0),
            offer(Yuyv, 1920, 1080, 5.0),
        ];
        for (request, expected) in [
            (REQUEST, offer(Yuyv, 640, 480, 30.0)),
            (FormatRequest { side: 320, ..REQUEST }, offer(Yuyv, 320, 240, 30.0)),
            (FormatRequest { side: 960, ..REQUEST }, offer(Yuyv, 1280, 720, 10.0)),
            (FormatRequest { side: 960, fps: 15.0, ..REQUEST }, offer(Mjpeg, 1280, 720, 30.0)),
            (FormatRequest { side: 1920, ..REQUEST }, offer(Mjpeg, 1920, 1080, 30.0)),
            (FormatRequest { side: 4000, ..REQUEST }, offer(Mjpeg, 1920, 1080, 30.0)),
            (FormatRequest { pixel: Some(Mjpeg), ..REQUEST }, offer(Mjpeg, 640, 480, 30.0)),
            (FormatRequest { width: Some(1920), ..REQUEST }, offer(Mjpeg, 1920, 1080, 30.0)),
            (FormatRequest { width: Some(1920), pixel: Some(Yuyv), ..REQUEST }, offer(Yuyv, 1920, 1080, 5.0)),
        ] {
            assert_eq!(choose(&usb, &request), Some(expected), "{request:?}");
        }
        assert_eq!(choose(&usb, &FormatRequest { height: Some(481), ..REQUEST }), None);
        assert_eq!(choose(&[], &REQUEST), None);
    }

    #[test]
    fn layouts_are_ranked_and_unknown_rates_rank_last() {
        let layouts = [Grey, Mjpeg, Rgb24, Yuyv, Nv12].map(|pixel| offer(pixel, 640, 480, 30.0));
        assert_eq!(choose(&layouts, &REQUEST).unwrap().pixel, Nv12);
        assert_eq!(choose(&layouts[..2], &REQUEST).unwrap().pixel, Mjpeg);
        let silent = [offer(Yuyv, 640, 480, 0.0), offer(Mjpeg, 640, 480, 30.0)];
        assert_eq!(choose(&silent, &REQUEST).unwrap().pixel, Mjpeg);
        assert_eq!(choose(&silent[..1], &REQUEST).unwrap().pixel, Yuyv);
    }

    /// Two cameras on one hub: a format that does not fit is skipped, and with it everything as heavy.
    #[test]
    fn a_full_bus_leads_to_a_lighter_format() {
        let usb = [
            offer(Yuyv, 1280, 720, 30.0),
            offer(Nv12, 1280, 720, 30.0),
            offer(Mjpeg, 1280, 720, 30.0),
            offer(Yuyv, 640, 480, 30.0),
        ];
        let room = |bits: u64| {
            let mut tried = Vec::new();
            let outcome = start_best(&usb, &FormatRequest { side: 1280, ..REQUEST }, |offer| {
                tried.push((offer.pixel, offer.width));
                if load(offer) <= bits { Ok(*offer) } else { Err(StartError::Bandwidth("full")) }
            });
            (tried, outcome)
        };
        let all = [(Nv12, 1280), (Mjpeg, 1280)];
        let (tried, outcome) = room(1280 * 720 * 12);
        assert_eq!((&tried[..], outcome.unwrap().unwrap().pixel), (&all[..1], Nv12));
        let (tried, outcome) = room(1280 * 720 * 2);
        assert_eq!(
            (&tried[..], outcome.unwrap().unwrap().pixel),
            (&all[..], Mjpeg),
            "a smaller but heavier format does not help"
        );
        let (tried, outcome) = room(10);
        assert!(tried == all && matches!(outcome, Some(Err(StartError::Bandwidth("full")))), "{tried:?}");
        let other = start_best(&usb, &REQUEST, |_| Err::<(), _>(StartError::Other("busy")));
        assert!(matches!(other, Some(Err(StartError::Other("busy")))));
        assert!(
            start_best(&usb, &FormatRequest { width: Some(7), ..REQUEST }, |_| Err::<(), _>(
                StartError::Other("")
            ))
            .is_none()
        );
    }

    #[test]
    fn stepwise_sizes_are_on_the_steps_and_the_largest_is_there() {
        let sizes: Vec<_> = sizes_within((16, 16), (1296, 972), (8, 2)).collect();
        assert_eq!(sizes, [(320, 240), (640, 360), (640, 480), (800, 600), (1280, 720), (1296, 972)]);
        assert_eq!(sizes_within((0, 0), (640, 480), (0, 0)).count(), 4, "a step of 0 is none");
    }
}
