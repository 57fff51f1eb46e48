//! Instances.
use super::stream::Reply;
use super::{Api, Fault};
use crate::proto::v1;
use tonic::{Request, Response, Status, Streaming};

#[tonic::async_trait]
impl v1::instances_server::Instances for Api {
    type LogsStream = Reply<v1::LogEntry>;
    type ExecStream = Reply<v1::ExecOutput>;
    async fn logs(&self, _: Request<v1::LogsRequest>) -> Result<Response<Self::LogsStream>, Status> {
        Err(Status::unimplemented(""))
    }
    async fn exec(&self, _: Request<Streaming<v1::ExecInput>>) -> Result<Response<Self::ExecStream>, Status> {
        Err(Status::unimplemented(""))
    }
}
impl Api {
    pub(super) fn explain(
        &self,
        _: &super::View,
        _: &crate::model::ids::TenantName,
        _: &str,
    ) -> Result<Vec<String>, Fault> {
        Ok(vec![])
    }
}
