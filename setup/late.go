package setup

import fedapi "weft/federationapi/api"

// Components that need each other are given these stand-ins; they are filled in
// while wiring, before anything runs.

type lateOutbound struct{ fedapi.Outbound }
