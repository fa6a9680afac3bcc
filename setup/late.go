package setup

import (
	fedapi "weft/federationapi/api"
	syncapiapi "weft/syncapi/api"
)

// Components that need each other are given these stand-ins; they are filled in
// while wiring, before anything runs.

type lateOutbound struct{ fedapi.Outbound }

type lateSync struct{ syncapiapi.Sync }
