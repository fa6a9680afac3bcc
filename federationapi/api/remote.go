package api

import (
	"context"

	"weft/internal/rpc"
	"weft/matrix/id"
)

// OutboundService is the name of Outbound among the services.
const OutboundService = "federationapi.Outbound"

// Remote is the outbound federation, in whichever process.
type Remote struct{ Caller rpc.Caller }

var _ Outbound = Remote{}

// SendEDU implements Outbound.
func (r Remote) SendEDU(ctx context.Context, edu EDU) error {
	return rpc.Do(ctx, r.Caller, rpc.Call{Service: OutboundService, Method: "SendEDU", Again: !edu.Durable}, edu)
}

// DestinationAlive implements Outbound.
func (r Remote) DestinationAlive(ctx context.Context, server id.Server) error {
	return rpc.Do(ctx, r.Caller, rpc.Call{Service: OutboundService, Method: "DestinationAlive", Again: true}, server)
}

// OutboundMethods lists the methods of Outbound, for processes that run the component.
func OutboundMethods(c Outbound) rpc.Methods {
	return rpc.Methods{
		"SendEDU": c.SendEDU, "DestinationAlive": c.DestinationAlive,
	}
}
