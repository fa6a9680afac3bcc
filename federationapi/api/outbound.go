package api

import (
	"context"
	"encoding/json"

	"weft/matrix/id"
)

// Outbound sends to other servers.
type Outbound interface {
	// SendEDU queues an EDU. A durable one is on disk when SendEDU returns and
	// survives restarts and outages; another one is dropped for a destination
	// that cannot be reached now.
	SendEDU(ctx context.Context, edu EDU) error
	// DestinationAlive tells that a server was heard from, so that a backoff
	// towards it ends.
	DestinationAlive(ctx context.Context, server id.Server) error
}

// EDU is an ephemeral data unit and where it goes.
//
// spec: server-server §6 (EDUs)
type EDU struct {
	Type         string
	Content      json.RawMessage
	Destinations []id.Server
	Durable      bool
	// Key makes a later EDU of the same type and key replace an earlier one
	// that was not sent yet (presence of a user, typing in a room).
	Key string
}
